//! `store export`: what a store holds, a line of JSON for each thing, for somebody who has to see to it by hand.
//!
//! Without `--payloads` nobody's name, no content and no secret is in it: domains, ids, numbers, sizes and times.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};
use trunkline_gateway_proto::audit;
use trunkline_gateway_proto::directory::{NetworkRecord, PeerRecord};
use trunkline_gateway_proto::envelope::View;
use trunkline_gateway_proto::state::Key;
use trunkline_gateway_proto::store::{Lane, NetworkKey, PeerKey, Record, Stream};
use trunkline_gateway_proto::wire;
use trunkline_http::cli::progress::Progress;
use trunkline_http::rfc3339::Utc;

use super::super::{CliError, Console};
use crate::config::Config;
use crate::store::inspect::Found;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    /// Also what envelopes say, in base64, and whole addresses: as `POST /v1/envelopes` takes them
    #[arg(long)]
    payloads: bool,
    /// Write to this file, which only its owner can read, instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The configuration [default: gateway.toml in the directory]
    #[arg(long, value_name = "FILE")]
    pub(in super::super) config: Option<PathBuf>,
}

pub(super) fn call(args: &Args, config: &Config, out: &mut Console<'_>) -> Result<(), CliError> {
    let Some(path) = &args.out else {
        let mut export = Export::new(args.payloads, &mut *out.out);
        super::walk(config, &mut |found| export.take(found))?;
        return export.finish().map(drop);
    };
    let cannot = |error: io::Error| CliError::Failed(format!("cannot write {}: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(cannot)?;
    let mut file = BufWriter::new(file);
    let progress = Progress::waiting("reading the store");
    let mut export = Export::new(args.payloads, &mut file);
    super::walk(config, &mut |found| export.take(found))?;
    let lines = export.finish()?;
    file.flush().map_err(cannot)?;
    drop(progress);
    let value = json!({ "written": path.display().to_string(), "lines": lines });
    out.show(&value, || format!("{lines} lines written to {}", path.display()));
    Ok(())
}

/// Writes line by line, and keeps in mind what state says of the records that follow it.
struct Export<'a> {
    payloads: bool,
    out: &'a mut dyn Write,
    lines: u64,
    damaged: u64,
    /// Once writing has failed, the rest is passed over.
    failed: Option<io::Error>,
    peers: HashMap<PeerKey, String>,
    networks: HashMap<NetworkKey, String>,
    /// Up to where each stream's records have left.
    acked: HashMap<Stream, u64>,
    /// Which records of a block left before those in front of them, by the number of its first: a bit each.
    gone: BTreeMap<(Stream, u64), Vec<u8>>,
    /// The next number of each stream, to be told once it is known whose streams they are.
    next: BTreeMap<Stream, u64>,
}

impl<'a> Export<'a> {
    fn new(payloads: bool, out: &'a mut dyn Write) -> Self {
        Self {
            payloads,
            out,
            lines: 0,
            damaged: 0,
            failed: None,
            peers: HashMap::new(),
            networks: HashMap::new(),
            acked: HashMap::new(),
            gone: BTreeMap::new(),
            next: BTreeMap::new(),
        }
    }

    fn line(&mut self, value: &Value) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{value}").err();
            self.lines = self.lines.saturating_add(1);
        }
    }

    fn finish(mut self) -> Result<u64, CliError> {
        self.positions();
        match self.failed {
            // A reader that went away (`| head`) is no error.
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(CliError::failed(format!("cannot write: {error}")));
            }
            _ => self.out.flush().ok(),
        };
        match self.damaged {
            0 => Ok(self.lines),
            count => Err(CliError::Failed(format!(
                "{count} entries or blocks cannot be read, and stand as `damaged` in what was exported"
            ))),
        }
    }

    fn take(&mut self, found: Found) {
        if matches!(found, Found::Block { .. }) {
            self.positions();
        }
        match found {
            Found::State { key, value } => self.state(&key, value.as_deref()),
            Found::Block { stream, first_seq, records: Some(records) } => {
                for (seq, record) in records {
                    let line = self.record(stream, first_seq, seq, &record);
                    self.line(&line);
                }
            }
            Found::Block { stream, first_seq, records: None } => {
                self.damaged = self.damaged.saturating_add(1);
                let mut line = self.stream(stream);
                line.insert("kind".into(), "damaged".into());
                line.insert("first_seq".into(), first_seq.into());
                self.line(&Value::Object(line));
            }
        }
    }

    fn state(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(value) = value else {
            self.damaged = self.damaged.saturating_add(1);
            let what = Key::decode(key).map_or("unknown", |key| kind_of(&key));
            return self.line(&json!({ "kind": "damaged", "state": what }));
        };
        let bytes = value.len();
        let line = match Key::decode(key) {
            Ok(Key::Peer(peer)) => match serde_json::from_slice::<PeerRecord>(value) {
                Ok(record) => {
                    self.peers.insert(peer, record.domain.to_string());
                    let (endpoints, state) = (record.endpoints, record.state);
                    json!({
                        "kind": "state", "state": "peer", "number": peer, "domain": record.domain,
                        "peering": state, "endpoints": endpoints, "bytes": bytes,
                    })
                }
                Err(_) => json!({ "kind": "state", "state": "peer", "number": peer, "bytes": bytes }),
            },
            Ok(Key::Network(network)) => match serde_json::from_slice::<NetworkRecord>(value) {
                Ok(record) => {
                    self.networks.insert(network, record.id.to_string());
                    let domains = record.local_domains;
                    json!({
                        "kind": "state", "state": "network", "number": network, "id": record.id.to_string(),
                        "local_domains": domains, "bytes": bytes,
                    })
                }
                Err(_) => json!({ "kind": "state", "state": "network", "number": network, "bytes": bytes }),
            },
            Ok(Key::Domain) => {
                json!({ "kind": "state", "state": "domain", "domain": String::from_utf8_lossy(value) })
            }
            Ok(Key::Outbox(peer)) => return self.lanes(peer, value),
            Ok(Key::Position(stream)) => return self.position(stream, &numbers(value)),
            Ok(Key::Gone(stream, first_seq)) => {
                self.gone.insert((stream, first_seq), value.to_vec());
                return;
            }
            Ok(key) => json!({ "kind": "state", "state": kind_of(&key), "bytes": bytes }),
            Err(_) => json!({ "kind": "state", "state": "unknown", "bytes": bytes }),
        };
        self.line(&line);
    }

    fn lanes(&mut self, peer: PeerKey, value: &[u8]) {
        for (lane, position) in (0..).zip(numbers(value).chunks(2)) {
            self.position(Stream::Outbox { peer, lane: Lane(lane) }, position);
        }
    }

    fn position(&mut self, stream: Stream, position: &[u64]) {
        if let [acked, next] = position {
            self.acked.insert(stream, *acked);
            self.next.insert(stream, *next);
        }
    }

    /// Where streams stand, but for those that nothing was ever in.
    fn positions(&mut self) {
        for (stream, next) in std::mem::take(&mut self.next).into_iter().filter(|(_, next)| *next > 1) {
            let mut line = self.stream(stream);
            line.insert("kind".into(), "position".into());
            line.insert("left_up_to".into(), self.acked.get(&stream).copied().into());
            line.insert("next_seq".into(), next.into());
            self.line(&Value::Object(line));
        }
    }

    /// What names a stream.
    fn stream(&self, stream: Stream) -> Map<String, Value> {
        let (name, number, of, lane) = match stream {
            Stream::Outbox { peer, lane } => ("outbox", peer.0, self.peers.get(&peer), Some(lane.0)),
            Stream::Inbox { network } => ("inbox", network.0, self.networks.get(&network), None),
            Stream::Receipts { network } => ("receipts", network.0, self.networks.get(&network), None),
            Stream::Audit => return Map::from_iter([("stream".into(), "audit".into())]),
        };
        let mut line = Map::new();
        line.insert("stream".into(), name.into());
        line.insert("number".into(), number.into());
        if let Some(of) = of {
            line.insert("of".into(), of.as_str().into());
        }
        if let Some(lane) = lane {
            line.insert("lane".into(), lane.into());
        }
        line
    }

    fn has_left(&self, stream: Stream, first_seq: u64, seq: u64) -> bool {
        let at = seq.saturating_sub(first_seq);
        let byte =
            self.gone.get(&(stream, first_seq)).and_then(|bits| bits.get(usize::try_from(at / 8).ok()?));
        self.acked.get(&stream).is_some_and(|acked| seq <= *acked)
            || byte.is_some_and(|byte| byte & (1 << (at % 8)) != 0)
    }

    fn record(&self, stream: Stream, first_seq: u64, seq: u64, record: &Record) -> Value {
        let Record { head, body } = record;
        let mut line = self.stream(stream);
        line.insert("kind".into(), "record".into());
        line.insert("seq".into(), seq.into());
        line.insert("bytes".into(), body.len().into());
        line.insert("at".into(), Utc(head.at.unix_ms()).to_string().into());
        // The log is numbered through and never expires.
        if stream != Stream::Audit {
            line.insert("id".into(), uuid::Uuid::from_bytes(head.id).to_string().into());
            line.insert("expires".into(), Utc(head.expires.unix_ms()).to_string().into());
            line.insert("left".into(), self.has_left(stream, first_seq, seq).into());
        }
        match stream {
            Stream::Outbox { .. } | Stream::Inbox { .. } => self.envelope(body, &mut line),
            Stream::Receipts { .. } => self.receipt(body, &mut line),
            Stream::Audit => self.entry(body, &mut line),
        }
        Value::Object(line)
    }

    fn envelope(&self, body: &[u8], line: &mut Map<String, Value>) {
        let Ok(view) = View::parse(body) else {
            line.insert("unreadable".into(), true.into());
            return;
        };
        line.insert("network".into(), view.network.into());
        line.insert("from".into(), domain(view.from).into());
        line.insert("to".into(), domains(view.to.iter().copied()));
        line.insert("recipients".into(), view.to.len().into());
        line.insert("payload_bytes".into(), view.payload_bytes.into());
        if let (true, Ok(envelope)) = (self.payloads, wire::Envelope::decode(body)) {
            let id = uuid::Uuid::from_slice(&envelope.id).unwrap_or_default();
            let kind = envelope.kind().as_str_name().to_ascii_lowercase();
            let whole = json!({
                "id": id.to_string(), "from": envelope.from, "to": envelope.to, "kind": kind,
                "conversation": envelope.conversation, "guest": envelope.guest,
                "payload": STANDARD.encode(&envelope.payload),
            });
            line.insert("envelope".into(), whole);
        }
    }

    fn receipt(&self, body: &[u8], line: &mut Map<String, Value>) {
        let Ok(receipt) = wire::Receipt::decode(body) else {
            line.insert("unreadable".into(), true.into());
            return;
        };
        line.insert("outcome".into(), receipt.state().as_str_name().to_ascii_lowercase().into());
        line.insert("reason".into(), receipt.reason.as_str().into());
        line.insert("to".into(), domains(receipt.to.iter().map(String::as_str)));
        if self.payloads {
            line.insert("recipients".into(), json!(receipt.to));
        }
    }

    fn entry(&self, body: &[u8], line: &mut Map<String, Value>) {
        let Ok(entry) = serde_json::from_slice::<audit::Entry>(body) else {
            line.insert("unreadable".into(), true.into());
            return;
        };
        line.insert("action".into(), entry.action.as_str().into());
        if self.payloads {
            line.insert("entry".into(), json!(entry));
        }
    }
}

/// The part of an address that is nobody's name.
fn domain(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

fn domains<'a>(addresses: impl Iterator<Item = &'a str>) -> Value {
    let mut domains: Vec<&str> = addresses.map(domain).collect();
    domains.sort_unstable();
    domains.dedup();
    json!(domains)
}

/// Numbers, big endian, one after the other.
fn numbers(value: &[u8]) -> Vec<u64> {
    value.as_chunks::<8>().0.iter().map(|number| u64::from_be_bytes(*number)).collect()
}

/// What a state entry is about. Labels and names of people are not told.
fn kind_of(key: &Key) -> &'static str {
    match key {
        Key::Epoch => "epoch",
        Key::Domain => "domain",
        Key::Counters => "counters",
        Key::Peer(_) => "peer",
        Key::Network(_) => "network",
        Key::Token(_) => "token",
        Key::Administrator(_) => "administrator",
        Key::Settings => "settings",
        Key::Outbox(_) | Key::Position(_) => "position",
        Key::Gone(..) => "left",
        Key::Inbound(_) => "inbound",
        Key::Refusal(..) => "refusal",
        Key::Ready(_) => "ready",
        Key::Rewind(_) => "rewind",
        Key::NextCertificate => "next certificate",
        Key::Identity => "identity",
        Key::AuditHead => "audit head",
    }
}
