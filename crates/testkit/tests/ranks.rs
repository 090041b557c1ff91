//! [`testkit::ranks`]: results in rank order, and a panic that is not lost.

use std::panic::catch_unwind;

#[test]
fn a_closure_runs_on_every_rank() {
    let ranks = testkit::ranks(3, |comm| comm.barrier().map(|()| (comm.rank(), comm.size())));
    assert_eq!(ranks, [Ok((0, 3)), Ok((1, 3)), Ok((2, 3))]);
}

#[test]
fn a_panic_ends_the_other_ranks_and_comes_through() {
    let panic = catch_unwind(|| {
        testkit::ranks(3, |comm| {
            if comm.rank() == 1 {
                std::panic::resume_unwind(Box::new("planned"));
            }
            assert!(comm.barrier().is_err());
        });
    });
    assert_eq!(panic.err().and_then(|p| p.downcast_ref::<&str>().copied()), Some("planned"));
}
