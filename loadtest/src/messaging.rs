//! The messaging server of a deployment, as the scenarios play it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::LoadError;
use crate::flow::Flow;
use crate::gateway::Gateway;
use crate::ledger::{Ledger, Verdict};
use crate::reader::{Inbox, Outcome, Reader, Receipts};
use crate::submit::{Api, Plan, Submitted, submit};

/// How long nothing may move before a scenario gives up. A link's back-off is the longest honest pause.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Reads the inbox and the receipts of its gateway, and hands flows in.
#[derive(Debug)]
pub(crate) struct MessagingServer {
    domain: String,
    api: Api,
    /// What arrived.
    pub inbox: Arc<Inbox>,
    /// What became of what it sent.
    pub receipts: Arc<Receipts>,
    _readers: [Reader; 2],
}

/// A flow that was handed in, arrived, and was receipted.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// What was handed in.
    pub submitted: Submitted,
    /// What its receipts say.
    pub outcome: Outcome,
    /// What became of it.
    pub verdict: Verdict,
}

impl MessagingServer {
    /// Starts to read everything that its gateway has for it.
    ///
    /// # Errors
    /// When there is no token for it.
    pub(crate) fn start(gateway: &Gateway) -> Result<Self, LoadError> {
        Ok(Self::of(&gateway.domain, gateway.api()?))
    }

    /// The same for a deployment of several replicas.
    pub(crate) fn of(domain: &str, api: Api) -> Self {
        let (inbox, receipts) = (Inbox::of([]), Arc::new(Receipts::default()));
        let readers = [Reader::start(&api, Arc::clone(&inbox)), Reader::start(&api, Arc::clone(&receipts))];
        Self { domain: domain.to_owned(), api, inbox, receipts, _readers: readers }
    }

    /// A new flow to a user of another deployment, whose messaging server will know it.
    ///
    /// # Errors
    /// When `conversations` or `size` make no flow.
    pub(crate) fn flow_to(
        &self,
        other: &Self,
        conversations: u32,
        size: usize,
    ) -> Result<Arc<Ledger>, LoadError> {
        let ledger = self.flow_to_domain(&other.domain, conversations, size)?;
        other.inbox.add(&ledger);
        Ok(ledger)
    }

    /// A new flow to a deployment that nobody answers at.
    ///
    /// # Errors
    /// When `conversations` or `size` make no flow.
    pub(crate) fn flow_to_domain(
        &self,
        domain: &str,
        conversations: u32,
        size: usize,
    ) -> Result<Arc<Ledger>, LoadError> {
        let (from, to) = (format!("sender@{}", self.domain), format!("receiver@{domain}"));
        Ok(Ledger::new(Flow::new(&from, &to, conversations, size)?))
    }

    /// Hands a flow in, until its plan is done or `stop` says so.
    ///
    /// # Errors
    /// When the gateway refuses an envelope.
    pub(crate) async fn submit(
        &self,
        ledger: &Arc<Ledger>,
        plan: Plan,
        stop: watch::Receiver<bool>,
    ) -> Result<Submitted, LoadError> {
        submit(&self.api, ledger, plan, stop).await
    }

    /// Hands a whole flow in, and sees it through to the last receipt.
    ///
    /// # Errors
    /// When the gateway refuses an envelope, or nothing moves any more.
    pub(crate) async fn exchange(
        &self,
        other: &Self,
        ledger: &Arc<Ledger>,
        plan: Plan,
    ) -> Result<Exchange, LoadError> {
        let (_running, stop) = watch::channel(false);
        let submitted = tokio::select! {
            submitted = self.submit(ledger, plan, stop) => submitted?,
            error = other.broken() => return Err(error),
        };
        self.settle(other, ledger, submitted).await
    }

    /// Sees a flow that was handed in through to the last receipt.
    ///
    /// # Errors
    /// When the reader gave up. When something is missing, the verdict says so.
    pub(crate) async fn settle(
        &self,
        other: &Self,
        ledger: &Arc<Ledger>,
        submitted: Submitted,
    ) -> Result<Exchange, LoadError> {
        let arrived = other.inbox.wait_for(ledger, submitted.total, PATIENCE).await;
        let run = ledger.flow().run();
        let outcome = match arrived {
            Ok(()) => self.receipts.wait_for(run, submitted.total, PATIENCE).await?,
            // What is lost is the result, not a failure to measure it.
            Err(LoadError::TimedOut { .. }) => self.receipts.of(run),
            Err(error) => return Err(error),
        };
        let verdict = ledger.verdict(&submitted.accepted);
        Ok(Exchange { submitted, outcome, verdict })
    }

    /// Waits until its inbox cannot be read any more.
    async fn broken(&self) -> LoadError {
        loop {
            if let Err(error) = self.inbox.check() {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
