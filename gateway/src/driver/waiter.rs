//! Whoever asked the hub for something, until the core answers.

use tokio::sync::oneshot;
use trunkline_gateway_proto::admin::AdminReply;
use trunkline_gateway_proto::core::Reply;
use trunkline_gateway_proto::store::Record;
use trunkline_gateway_proto::wire;

use crate::hub::{AdminFailure, HubError};

/// Whoever waits for an answer.
pub(super) enum Waiter {
    Submit(oneshot::Sender<Result<Vec<wire::SubmitResult>, HubError>>),
    Records(oneshot::Sender<Result<Vec<(u64, Record)>, HubError>>),
    Ack(oneshot::Sender<Result<(), HubError>>),
    Admin(oneshot::Sender<Result<AdminReply, AdminFailure>>),
}

impl Waiter {
    pub(super) fn fail(self, error: HubError) {
        // A caller that gave up needs no answer.
        match self {
            Self::Submit(reply) => drop(reply.send(Err(error))),
            Self::Records(reply) => drop(reply.send(Err(error))),
            Self::Ack(reply) => drop(reply.send(Err(error))),
            Self::Admin(reply) => drop(reply.send(Err(error.into()))),
        }
    }
}

/// Gives the core's answer to whoever waits for it.
pub(super) fn answer(waiter: Waiter, reply: Reply) {
    // A caller that gave up needs no answer.
    match (waiter, reply) {
        (Waiter::Submit(to), Reply::Submitted(results)) => drop(to.send(Ok(results))),
        (Waiter::Records(to), Reply::Records(records)) => drop(to.send(Ok(records))),
        (Waiter::Ack(to), Reply::Acked) => drop(to.send(Ok(()))),
        (Waiter::Admin(to), Reply::Admin(reply)) => drop(to.send(reply.map_err(AdminFailure::from))),
        _ => unreachable!("the core answers each ticket in its own kind"),
    }
}
