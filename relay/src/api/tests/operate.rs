//! Records, drain, health, metrics.

use trunkline_http::problem::{BAD_REQUEST, MALFORMED, NOT_FOUND};

use super::*;
use crate::records::Settings;

#[tokio::test]
async fn health_metrics_and_the_description_are_open() {
    let served = served().await;
    let get = async |path: &str| {
        let response = served.request("GET", path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.text().await.unwrap()
    };
    let health: Health = serde_json::from_str(&get("/healthz").await).unwrap();
    assert_eq!((&*health.status, health.node, health.draining), ("alive", 7, false));
    assert_eq!((health.calls, health.participants), (0, 0));
    assert!(health.started_at > 0 && health.calls_max > 0, "{health:?}");
    assert_eq!(get("/readyz").await, "ready\n");
    assert!(get("/metrics").await.contains("trunkline_relay_calls 0"));
    let document: Value = serde_json::from_str(&get("/openapi.json").await).unwrap();
    assert_eq!(document, openapi::document());
    problem(served.request("GET", "/v2").send().await.unwrap(), NOT_FOUND).await;
}

#[tokio::test]
async fn a_draining_node_is_alive_and_not_ready() {
    let served = served().await;
    served.json("POST", "/v1/drain", Some(json!({ "deadline_s": 600 }))).await;
    assert_eq!(served.request("GET", "/healthz").send().await.unwrap().status(), StatusCode::OK);
    problem(served.request("GET", "/readyz").send().await.unwrap(), fail::NOT_READY).await;
    let metrics = served.request("GET", "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("trunkline_relay_draining 1"), "{metrics}");
    served.json("DELETE", "/v1/drain", None).await;
    assert_eq!(served.request("GET", "/readyz").send().await.unwrap().status(), StatusCode::OK);
    let body = Some(json!({ "deadline_s": 604_801 }));
    problem(served.admin("POST", "/v1/drain", body).await, MALFORMED).await;
}

#[tokio::test]
async fn a_stopping_node_is_not_ready() {
    let served = served().await;
    let client = served.http.clone();
    // The connection is there before the order to stop, which closes the listener.
    let url = format!("{}/readyz", served.url);
    assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::OK);
    served.stop.send_replace(true);
    if let Ok(response) = client.get(&url).send().await {
        problem(response, fail::NOT_READY).await;
    }
}

#[tokio::test]
async fn records_of_what_happened_are_read_back_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { directory: dir.path().to_owned(), prefix: "calls".into(), size_max: 1 << 20 };
    let (recorder, _writer) = Recorder::start(settings).unwrap();
    let directory: PathBuf = dir.path().to_owned();
    let mut served = served_with(recorder, |config| config.records.directory = Some(directory)).await;
    let (book, mut events) = (Arc::clone(&served.book), served.events.take().unwrap());
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            book.note(event);
        }
    });
    let cancelled = served.call(json!({ "meeting_id": "m-1" })).await;
    served.json("DELETE", &format!("/v1/calls/{cancelled}"), None).await;
    let missed = served.call(json!({})).await;
    served.joined(&missed, "Ann").await;
    served.json("DELETE", &format!("/v1/calls/{missed}"), None).await;
    let completed = served.call(json!({})).await;
    served.joined(&completed, "Ann").await;
    served.joined(&completed, "Bob").await;
    served.json("DELETE", &format!("/v1/calls/{completed}"), None).await;

    let (mut since, mut records) = (0, Vec::new());
    tokio::time::timeout(PATIENCE, async {
        while records.len() < 6 {
            let page = served.json("GET", &format!("/v1/records?since={since}&max=2"), None).await;
            assert!(page["records"].as_array().unwrap().len() <= 2);
            records.extend(page["records"].as_array().unwrap().clone());
            since = page["next"].as_u64().unwrap();
        }
    })
    .await
    .unwrap();
    let ended = |call: &str| records.iter().rfind(|record| record["call_id"] == call).unwrap();
    assert_eq!(ended(&cancelled)["status"], 3);
    assert_eq!(ended(&missed)["status"], 2);
    assert_eq!(ended(&completed)["status"], 1);
    assert_eq!(ended(&completed)["participants"].as_array().unwrap().len(), 2);
    assert_eq!(ended(&cancelled)["meetingid"], "m-1");
    assert!(!json!(records).to_string().contains("Ann"));

    problem(served.admin("GET", "/v1/records?max=0", None).await, MALFORMED).await;
    problem(served.admin("GET", "/v1/records?since=x", None).await, BAD_REQUEST).await;
}

#[tokio::test]
async fn records_that_are_off_are_said_to_be_off() {
    let served = served().await;
    problem(served.admin("GET", "/v1/records", None).await, fail::NOT_CONFIGURED).await;
}
