//! Calls between native clients that nobody here wrote, over a real relay process: str0m and aiortc.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::process::Relay;

mod aiortc;
mod str0m;

/// Creates a call, and gives its id.
fn create(relay: &Relay) -> String {
    relay.json(&["call", "create"])["call_id"].as_str().unwrap().to_owned()
}

/// A join token.
fn token(relay: &Relay, call: &str, participant: &str) -> String {
    let made = relay.json(&["call", "token", call, "--participant", participant]);
    made["token"].as_str().unwrap().to_owned()
}

/// How many the relay says are in the call.
fn participants(relay: &Relay, call: &str) -> usize {
    relay.json(&["call", "show", call])["participants"].as_array().unwrap().len()
}

/// One request with a token, and SDP when there is any: head and body of the answer.
fn request(relay: &Relay, method: &str, path: &str, token: &str, sdp: &str) -> (String, String) {
    let mut stream = TcpStream::connect(&relay.address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
