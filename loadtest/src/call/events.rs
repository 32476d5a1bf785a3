//! Participants' events connections: what they want to see goes out, and what is wanted of their cameras comes in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use trunkline_relay_proto::media::ENCODINGS_MAX;

use super::clients::Clients;
use crate::error::LoadError;

/// Heights of pictures that are asked for: a large one and tiles.
const LARGE: u32 = 720;
const TILE: u32 = 180;

/// Requests at a time, and between two times: a relay takes 20 a second.
const REQUESTS: usize = 15;
const PAUSE: Duration = Duration::from_millis(1100);

/// Who follows the events of a call.
pub(super) struct Follower {
    /// Which client it is, in the order of joining.
    pub(super) number: u32,
    /// Where the relay said that the session is.
    pub(super) location: String,
}

/// Everybody's events connections. Dropping it closes them.
pub(super) struct Events {
    _readers: JoinSet<()>,
}

impl Events {
    /// Connects everybody and asks for what each of them wants to see. Clients are told what is wanted of their cameras
    /// for as long as this lives.
    ///
    /// # Errors
    /// When a connection is refused, or ends.
    pub(super) async fn open(
        api: SocketAddr,
        followers: Vec<Follower>,
        (publishers, slots): (u32, usize),
        clients: &Arc<Clients>,
    ) -> Result<Self, LoadError> {
        let (mut readers, mut asking) = (JoinSet::new(), JoinSet::new());
        for Follower { number, location } in followers {
            let failed = |why: String| LoadError::Answer { request: "GET …/events".to_owned(), why };
            let socket = connect_async(format!("ws://{api}{location}/events")).await;
            let (mut write, mut read) = socket.map_err(|error| failed(error.to_string()))?.0.split();
            let clients = Arc::clone(clients);
            readers.spawn(async move {
                while let Some(Ok(message)) = read.next().await {
                    let Message::Text(text) = message else { continue };
                    if let Some(wanted) = wanted_encodings(&text) {
                        clients.want(number, wanted);
                    }
                }
            });
            let pins = pins(number, publishers, slots);
            asking.spawn(async move {
                for some in pins.chunks(REQUESTS) {
                    for pin in some {
                        write
                            .send(Message::text(pin.to_string()))
                            .await
                            .map_err(|error| error.to_string())?;
                    }
                    sleep(PAUSE).await;
                }
                Ok(write)
            });
        }
        while let Some(asked) = asking.join_next().await {
            let asked = asked.map_err(|error| error.to_string()).and_then(|asked| asked);
            let mut write = asked.map_err(|why| LoadError::Answer { request: "a pin".to_owned(), why })?;
            // Held, for a connection ends with either half.
            readers.spawn(async move {
                let _ = write.flush().await;
                std::future::pending::<()>().await;
            });
        }
        Ok(Self { _readers: readers })
    }
}

/// What one participant wants to see: the next camera large, and those after it in tiles.
fn pins(number: u32, publishers: u32, slots: usize) -> Vec<Value> {
    let others = (1..publishers).map(|ahead| (number + ahead) % publishers).filter(|other| *other != number);
    let pin = |(slot, other): (usize, u32)| {
        let height = if slot == 0 { LARGE } else { TILE };
        json!({ "pin": {
            "slot": format!("v{slot}"), "participant": format!("p{other}"), "source": "camera", "height": height,
        }})
    };
    (0..slots).zip(others).map(pin).collect()
}

/// Which encodings of the camera are wanted, if a message says so.
fn wanted_encodings(text: &str) -> Option<[bool; ENCODINGS_MAX]> {
    // Most are about others, and not worth reading.
    if !text.contains("\"layers\"") {
        return None;
    }
    let message: Value = serde_json::from_str(text).ok()?;
    if message.get("event")? != "layers" {
        return None;
    }
    let camera = message.get("sources")?.as_array()?.iter().find(|source| source["source"] == "camera")?;
    let mut wanted = [true; ENCODINGS_MAX];
    for (place, encoding) in wanted.iter_mut().zip(camera.get("encodings")?.as_array()?) {
        *place = encoding.get("wanted")?.as_bool()?;
    }
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_one_camera_large_and_others_in_tiles() {
        let pins = pins(98, 100, 26);
        assert_eq!(pins.len(), 26);
        assert_eq!(
            pins[0].to_string(),
            r#"{"pin":{"height":720,"participant":"p99","slot":"v0","source":"camera"}}"#
        );
        assert_eq!(pins[1]["pin"]["participant"], "p0");
        assert!(
            pins[1..].iter().all(|pin| pin["pin"]["height"] == 180 && pin["pin"]["participant"] != "p98")
        );
        assert_eq!(super::pins(3, 4, 9).len(), 3, "there are no more");
    }

    #[test]
    fn what_is_wanted_of_a_camera_is_read_of_events() {
        let text = r#"{"event":"layers","sources":[{"source":"camera","height":180,"encodings":[
            {"rid":"q","wanted":true},{"rid":"h","wanted":false},{"rid":"f","wanted":false}]}]}"#;
        assert_eq!(wanted_encodings(text), Some([true, false, false]));
        assert_eq!(wanted_encodings(r#"{"event":"speakers","speakers":["\"layers\""]}"#), None);
    }
}
