//! `POST /admin/v1/doctor`: what is wrong, and what to do.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio::sync::Mutex;

use super::{AdminState, Answer, fail, now};
use crate::doctor::{Check, Patient, examine, peers};

/// Looks at one gateway, once at a time: every look dials and reads.
#[derive(Debug, Default)]
pub(super) struct Doctor {
    patient: Option<Patient>,
    busy: Mutex<()>,
}

impl Doctor {
    pub(super) fn of(patient: Patient) -> Self {
        Self { patient: Some(patient), busy: Mutex::default() }
    }
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Diagnosis {
    checks: Vec<Check>,
}

pub(super) async fn diagnose(State(state): State<AdminState>) -> Answer<Json<Diagnosis>> {
    let Ok(_busy) = state.doctor.busy.try_lock() else {
        return Err(fail::conflict("the doctor is busy with another request: ask again in ten seconds"));
    };
    let mut checks = match &state.doctor.patient {
        Some(patient) => Box::pin(examine(patient)).await,
        // A gateway without settings of its own, as in tests: there is still its core.
        None => peers::overview(&state.hub.overview().await.map_err(fail::hub)?, now()),
    };
    checks.sort_by(|a, b| (a.outcome, &a.check, &a.subject).cmp(&(b.outcome, &b.check, &b.subject)));
    Ok(Json(Diagnosis { checks }))
}
