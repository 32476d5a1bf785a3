//! What relays answer, as far as it is read. Whatever else stands there is skipped, names of people before all.

use serde::Deserialize;

use super::view::{CallView, Kind, Transports};

/// Calls of one relay that are listed. A node takes 1000 unless configured otherwise.
const LISTED_MAX: usize = 2000;

/// The last moment that there is in browsers (ECMA-262, section 21.4.1.1), in seconds.
const MOMENT_S_MAX: u64 = 8_640_000_000_000;

/// Characters of a text that a relay gives its callers to choose.
const TEXT_CHARS_MAX: usize = 200;

/// What a relay says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) kind: Option<Kind>,
    pub(super) node: Option<u16>,
    pub(super) draining: bool,
    pub(super) calls: u64,
    pub(super) calls_max: Option<u64>,
    pub(super) participants: u64,
    pub(super) busy: Option<f64>,
    /// Milliseconds since the Unix epoch.
    pub(super) started_at: Option<u64>,
}

/// `GET /healthz` of a node.
#[derive(Debug, Deserialize)]
pub(super) struct Health {
    node: u16,
    draining: bool,
    calls: u64,
    calls_max: u64,
    participants: u64,
    busy: f64,
    /// Seconds.
    started_at: u64,
}

/// `GET /v1/calls`
#[derive(Debug, Deserialize)]
pub(super) struct Calls {
    calls: Vec<Summary>,
    #[serde(default)]
    participants: u64,
    #[serde(default)]
    draining: bool,
    #[serde(default)]
    workers: Vec<f64>,
}

#[derive(Debug, Deserialize)]
struct Summary {
    call_id: String,
    #[serde(default)]
    mode: String,
    /// Seconds.
    #[serde(default)]
    created_at: u64,
    #[serde(default)]
    participants: u64,
    #[serde(default)]
    max_participants: u64,
    #[serde(default)]
    meeting_id: Option<String>,
    #[serde(default)]
    moved: bool,
}

/// `GET /v1/calls/{call}`
#[derive(Debug, Deserialize)]
pub(super) struct Detail {
    #[serde(default)]
    participants: Vec<Person>,
}

/// One person on a call, without who it is.
#[derive(Debug, Deserialize)]
struct Person {
    #[serde(default)]
    transport: Option<Transport>,
    #[serde(default)]
    uplink_loss: f64,
    #[serde(default)]
    downlink_loss: f64,
    #[serde(default)]
    rtt_ms: Option<f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Transport {
    Udp,
    Tcp,
    Tls,
    #[serde(other)]
    Unknown,
}

/// Seconds as milliseconds, as far as there are dates: browsers know none after the year 275,760.
fn moment(seconds: u64) -> u64 {
    seconds.min(MOMENT_S_MAX) * 1000
}

/// Whether a text may be a call's id: it becomes part of a path.
pub(super) fn is_call_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

impl Calls {
    /// What a node says of itself; an ingress says only what its nodes do together.
    pub(super) fn facts(&self, health: Option<&Health>) -> Facts {
        let share = |busy: f64| busy.is_finite().then(|| busy.clamp(0.0, 1.0));
        match health {
            Some(health) => Facts {
                kind: Some(Kind::Node),
                node: Some(health.node),
                draining: health.draining,
                calls: health.calls,
                calls_max: Some(health.calls_max),
                participants: health.participants,
                busy: share(health.busy),
                started_at: Some(moment(health.started_at)),
            },
            None => Facts {
                kind: Some(Kind::Ingress),
                draining: self.draining,
                calls: self.calls.len() as u64,
                participants: self.participants,
                busy: share(mean(self.workers.iter().copied()).unwrap_or(f64::NAN)),
                ..Facts::default()
            },
        }
    }

    /// The calls, the largest first, without detail.
    pub(super) fn views(self, relay: &str) -> Vec<CallView> {
        let mut views: Vec<CallView> = self
            .calls
            .into_iter()
            .filter(|call| is_call_id(&call.call_id))
            .take(LISTED_MAX)
            .map(|call| CallView {
                relay: relay.to_owned(),
                call_id: call.call_id,
                mode: printable(&call.mode),
                created_at: moment(call.created_at),
                participants: call.participants,
                max_participants: call.max_participants,
                meeting_id: call.meeting_id.as_deref().map(printable),
                moved: call.moved,
                transports: None,
                uplink_loss: None,
                downlink_loss: None,
                rtt_ms: None,
            })
            .collect();
        views.sort_by(|a, b| b.participants.cmp(&a.participants).then_with(|| a.call_id.cmp(&b.call_id)));
        views
    }
}

impl Detail {
    /// Adds to a call what is known of its people, as means over them.
    pub(super) fn add_to(&self, view: &mut CallView) {
        let mut transports = Transports::default();
        for person in &self.participants {
            match person.transport {
                Some(Transport::Udp) => transports.udp += 1,
                Some(Transport::Tcp) => transports.tcp += 1,
                Some(Transport::Tls) => transports.tls += 1,
                Some(Transport::Unknown) | None => {}
            }
        }
        view.transports = Some(transports);
        view.uplink_loss = mean(self.participants.iter().map(|person| person.uplink_loss));
        view.downlink_loss = mean(self.participants.iter().map(|person| person.downlink_loss));
        view.rtt_ms = mean(self.participants.iter().filter_map(|person| person.rtt_ms));
    }
}

/// The mean of finite numbers; `None` of none.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values.filter(|value| value.is_finite()) {
        sum += value;
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

/// A text of somebody else, bounded, on one line.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}
