//! [`SamplingFields`]: the sampling options of the OpenAI-shaped routes, and their way to the engine's.

use std::collections::BTreeMap;

use engine::SamplingParams;
use serde::Deserialize;

use super::Mode;
use super::fields::{OneOrMany, in_range};
use crate::error::{ApiError, ApiResult};
use crate::limits;
use crate::state::App;

/// As clients write them; `null` is the same as absent.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct SamplingFields {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<i64>,
    pub(crate) min_p: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    pub(crate) logit_bias: Option<BTreeMap<String, f64>>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<OneOrMany>,
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    pub(crate) ignore_eos: Option<bool>,
}

impl SamplingFields {
    /// The engine's parameters: what the client says before what the checkpoint says, as far as it counts in this mode.
    /// `has_tools` is whether tools are offered.
    pub(crate) fn params(&self, app: &App, mode: &Mode, has_tools: bool) -> ApiResult<SamplingParams> {
        let (defaults, dialect) = (&app.model.defaults, app.options.dialect);
        let wished = self.checked(defaults)?;
        let ruled = dialect.top_p(app.model.format.generation(), mode.thinking, has_tools, wished.top_p);
        let params = match dialect.heeds_sampling(mode) {
            true => wished,
            false => {
                let SamplingParams { logit_bias, seed, .. } = wished;
                SamplingParams { logit_bias, seed, ..defaults.clone() }
            }
        };
        Ok(SamplingParams { top_p: ruled.unwrap_or(params.top_p), ..params })
    }

    fn checked(&self, defaults: &SamplingParams) -> ApiResult<SamplingParams> {
        let above_zero = |field, value: Option<f64>, most: f64| match value {
            Some(value) if !(value > 0.0 && value <= most) => {
                Err(ApiError::value(field, format!("above 0 and at most {most}"), value))
            }
            value => Ok(value.map(|value| value as f32)),
        };
        let penalty = |field, value| in_range(field, value, -limits::MAX_PENALTY, limits::MAX_PENALTY);
        let d = defaults;
        Ok(SamplingParams {
            temperature: in_range("temperature", self.temperature, 0.0, limits::MAX_TEMPERATURE)?
                .unwrap_or(d.temperature),
            top_p: above_zero("top_p", self.top_p, 1.0)?.unwrap_or(d.top_p),
            top_k: self.top_k()?.unwrap_or(d.top_k),
            min_p: in_range("min_p", self.min_p, 0.0, 1.0)?.unwrap_or(d.min_p),
            presence_penalty: penalty("presence_penalty", self.presence_penalty)?
                .unwrap_or(d.presence_penalty),
            frequency_penalty: penalty("frequency_penalty", self.frequency_penalty)?
                .unwrap_or(d.frequency_penalty),
            repetition_penalty: above_zero(
                "repetition_penalty",
                self.repetition_penalty,
                limits::MAX_REPETITION_PENALTY,
            )?
            .unwrap_or(d.repetition_penalty),
            logit_bias: self.logit_bias()?,
            seed: self.seed()?,
            logprobs: None,
        })
    }

    /// The strings that end the text.
    pub(crate) fn stops(&self) -> ApiResult<Vec<String>> {
        Self::check_stops("stop", self.stop.clone().map(OneOrMany::into_vec).unwrap_or_default())
    }

    /// Stop strings from the field `field`.
    pub(crate) fn check_stops(field: &str, stops: Vec<String>) -> ApiResult<Vec<String>> {
        if stops.len() > limits::MAX_STOPS {
            let expected = format!("at most {} strings", limits::MAX_STOPS);
            return Err(ApiError::value(field, expected, format!("a list of {}", stops.len())));
        }
        for stop in &stops {
            if stop.is_empty() || stop.len() > limits::MAX_STOP_BYTES {
                let expected = format!("strings of 1 to {} bytes", limits::MAX_STOP_BYTES);
                return Err(ApiError::value(field, expected, format!("one of {} bytes", stop.len())));
            }
        }
        Ok(stops)
    }

    /// The tokens that end the text, beside the model's own.
    pub(crate) fn stop_tokens(&self) -> ApiResult<Vec<u32>> {
        let tokens = self.stop_token_ids.clone().unwrap_or_default();
        if tokens.len() > limits::MAX_STOP_TOKENS {
            let expected = format!("at most {} tokens", limits::MAX_STOP_TOKENS);
            return Err(ApiError::value("stop_token_ids", expected, format!("a list of {}", tokens.len())));
        }
        Ok(tokens)
    }

    /// 0 and -1 both keep every token, as clients of other servers write it.
    fn top_k(&self) -> ApiResult<Option<usize>> {
        match self.top_k {
            None => Ok(None),
            Some(-1) => Ok(Some(0)),
            Some(k) => match usize::try_from(k) {
                Ok(k) => Ok(Some(k)),
                Err(_) => Err(ApiError::value("top_k", "-1 or more", k)),
            },
        }
    }

    fn seed(&self) -> ApiResult<Option<u64>> {
        match self.seed {
            None => Ok(None),
            Some(seed) => match u64::try_from(seed) {
                Ok(seed) => Ok(Some(seed)),
                Err(_) => Err(ApiError::value("seed", format!("0 to {}", i64::MAX), seed)),
            },
        }
    }

    fn logit_bias(&self) -> ApiResult<Vec<(u32, f32)>> {
        let Some(biases) = &self.logit_bias else { return Ok(Vec::new()) };
        if biases.len() > limits::MAX_LOGIT_BIAS {
            let expected = format!("at most {} entries", limits::MAX_LOGIT_BIAS);
            return Err(ApiError::value("logit_bias", expected, format!("{} entries", biases.len())));
        }
        let entry = |(token, bias): (&String, &f64)| {
            let field = format!("logit_bias.{token}");
            let id: u32 = token.parse().map_err(|_| {
                ApiError::value("logit_bias", "token ids as keys", format!("the key {token:?}"))
            })?;
            let bias = in_range(field, Some(*bias), -limits::MAX_BIAS, limits::MAX_BIAS)?;
            Ok((id, bias.unwrap_or_default()))
        };
        biases.iter().map(entry).collect()
    }
}
