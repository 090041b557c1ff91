//! [`Server`]: binds, serves, and stops without cutting anybody short who can be waited for.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use crate::error::ServerError;
use crate::options::{ServedModel, ServerOptions};
use crate::state::App;
use crate::{connection, router};

/// How long clients have to read their last bytes once everything was cancelled.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the system keeps of an answer for a client that reads slowly; beyond it the generation waits.
const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A server with an open socket.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Checks the options and opens the socket. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// [`ServerError::PublicWithoutKey`] for an address that other machines can reach while no key is set,
    /// [`ServerError::Option`] for an option out of range, [`ServerError::Keys`] for a keys file that cannot be read,
    /// [`ServerError::Bind`] if the system refuses the address.
    pub async fn bind(model: ServedModel, options: ServerOptions) -> Result<Self, ServerError> {
        options.validate()?;
        let addr = options.addr;
        let app = Arc::new(App::new(model, options)?);
        let bind_error = |source| ServerError::Bind { addr, source };
        let listener = listen(addr).map_err(bind_error)?;
        let addr = listener.local_addr().map_err(bind_error)?;
        Ok(Self { app, listener, addr })
    }

    /// Where it listens; tells the port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` is ready. Then nothing new is taken, what runs may go on until the options' deadline,
    /// and what is left is cancelled.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { app, listener, .. } = self;
        let graceful = GracefulShutdown::new();
        let router = router::router(Arc::clone(&app));
        tokio::select! {
            () = connection::accept(&listener, router, app.options.limits, &graceful) => {}
            () = app.keys.watch() => {}
            () = shutdown => {}
        }
        drop(listener);
        let service = &app.model.service;
        service.drain();
        tracing::info!("draining for at most {} s", app.options.drain_deadline.as_secs());
        let closed = graceful.shutdown();
        tokio::pin!(closed);
        if timeout(app.options.drain_deadline, &mut closed).await.is_err() {
            tracing::warn!("the deadline is over; what still runs is cancelled");
            service.cancel_all();
            let _ = timeout(LAST_WORDS, &mut closed).await;
        }
        tracing::info!("stopped");
    }
}

fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that starts again need not wait for the old one's connections.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
