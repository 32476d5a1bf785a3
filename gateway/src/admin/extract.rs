//! Reading requests, beyond what both APIs share: every way to be wrong is answered with a problem document.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::{BODY_BYTES_MAX, fail};
use crate::api::extract::{json_problem, read_body};
use crate::api::problem::Problem;

/// A JSON body that may be left out, as all of its fields may.
pub(super) struct OptionalJson<T>(pub(super) T);

/// The one path parameter, parsed.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        let bytes = read_body(request, BODY_BYTES_MAX).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| json_problem(&error))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(fail::bad_path(format!("in the path: {}", rejection.body_text()))),
        }
    }
}
