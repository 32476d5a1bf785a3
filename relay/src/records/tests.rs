//! What is recorded of a call, and how it is read back.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::*;

fn settings(directory: &Path) -> Settings {
    Settings { directory: directory.to_owned(), prefix: "calls".into(), size_max: 1 << 20 }
}

fn about(id: &str) -> About {
    About {
        call_id: id.to_owned(),
        calluri: "192.0.2.1:16384".into(),
        calluriipv6: Some("[2001:db8::1]:16384".into()),
        meetingid: Some("m-17".into()),
    }
}

fn reader(directory: &Path) -> Reader {
    Reader::new(directory.to_owned(), "calls".into())
}

fn values(page: &Page) -> Vec<Value> {
    page.records.iter().map(|record| serde_json::from_str(record.get()).unwrap()).collect()
}

/// Records calls, one for each list of names, and waits until they are written.
fn record_calls(settings: Settings, calls: &[&[&str]]) {
    let (recorder, writer) = Recorder::start(settings).unwrap();
    for (index, names) in calls.iter().enumerate() {
        let about = about(&format!("call-{index}"));
        recorder.begin(&about);
        let names: Vec<Arc<str>> = names.iter().map(|name| Arc::from(*name)).collect();
        recorder.end(&about, &names, Duration::from_millis(2500), index == 0);
    }
    drop(recorder);
    writer.finish();
}

#[test]
fn a_call_has_a_record_when_it_begins_and_one_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    record_calls(settings(dir.path()), &[&["Ann", "Bob"]]);
    let page = reader(dir.path()).since(0, PAGE_MAX).unwrap();
    let [start, end] = values(&page).try_into().unwrap();
    assert_eq!((&start["status"], &end["status"]), (&0.into(), &1.into()));
    assert_eq!(start["startmsgid"], end["startmsgid"]);
    assert_ne!(start["invitemsgid"], end["invitemsgid"]);
    assert_eq!(start["participants"], serde_json::json!([]));
    assert_eq!((end["participants"].as_array().unwrap().len(), &end["duration"]), (2, &2.into()));
    assert!(end["msg_ts"].as_u64() > start["msg_ts"].as_u64());
    let fields: Vec<&str> = end.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "call_id",
        "calluri",
        "calluriipv6",
        "meetingid",
        "participants",
        "status",
        "duration",
        "startmsgid",
        "invitemsgid",
        "msg_ts",
        "time_iso",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    assert!(end["time_iso"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn names_are_hashed_with_sha_256() {
    let dir = tempfile::tempdir().unwrap();
    record_calls(settings(dir.path()), &[&["abc", "x"]]);
    let end = values(&reader(dir.path()).since(0, PAGE_MAX).unwrap()).pop().unwrap();
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert!(end["participants"].as_array().unwrap().iter().any(|hash| hash == abc), "{end}");
    assert!(!end.to_string().contains("\"abc\""));
}

#[test]
fn a_call_that_nobody_answered_is_missed_and_one_that_was_taken_back_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    // The first one is ended on request.
    record_calls(settings(dir.path()), &[&[], &[], &["Ann"], &["Ann", "Bob"]]);
    let records = values(&reader(dir.path()).since(0, PAGE_MAX).unwrap());
    let ends: Vec<_> = records.iter().skip(1).step_by(2).map(|end| end["status"].as_u64().unwrap()).collect();
    assert_eq!(ends, [3, 2, 2, 1]);
}

#[test]
fn a_file_is_left_alone_before_it_would_grow_beyond_its_maximum() {
    let dir = tempfile::tempdir().unwrap();
    let calls = [&["Ann", "Bob"][..]; 20];
    record_calls(Settings { size_max: 2000, ..settings(dir.path()) }, &calls);
    let sizes: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() > 5 && sizes.iter().all(|size| *size <= 2000), "{sizes:?}");
    assert_eq!(reader(dir.path()).since(0, PAGE_MAX).unwrap().records.len(), 40);
}

#[test]
fn pages_follow_each_other_without_a_gap_or_a_repetition_across_files_and_starts() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        record_calls(Settings { size_max: 1500, ..settings(dir.path()) }, &[&["Ann"][..]; 7]);
    }
    let (mut since, mut seen) = (0, Vec::new());
    loop {
        let page = reader(dir.path()).since(since, 4).unwrap();
        seen.extend(values(&page).iter().map(|record| record["msg_ts"].as_u64().unwrap()));
        since = page.next;
        if !page.more {
            break;
        }
    }
    assert_eq!(seen.len(), 42);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    let page = reader(dir.path()).since(since, 4).unwrap();
    assert_eq!((page.records.len(), page.next, page.more), (0, since, false));
}

#[test]
fn the_middle_of_a_long_file_is_found_without_reading_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let record = |msg_ts: u64| format!("{{\"msg_ts\":{msg_ts},\"pad\":\"{}\"}}\n", "x".repeat(500));
    let text: String = (1..=10_000).map(record).collect();
    fs::write(dir.path().join(format!("calls-{:020}.jsonl", 1)), text).unwrap();
    for since in [0, 1, 4_999, 5_000, 9_998, 9_999, 10_000] {
        let page = reader(dir.path()).since(since, 3).unwrap();
        let expected: Vec<u64> = (since + 1..=10_000).take(3).collect();
        let found: Vec<_> = values(&page).iter().map(|record| record["msg_ts"].as_u64().unwrap()).collect();
        assert_eq!(found, expected);
        assert_eq!(page.more, since + 3 < 10_000);
    }
}

#[test]
fn half_a_line_that_a_crash_left_and_files_of_others_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    record_calls(settings(dir.path()), &[&[]]);
    let file = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("{\"call_id\":\"torn");
    fs::write(&file, text).unwrap();
    fs::write(dir.path().join("calls-notes.jsonl"), "{\"msg_ts\":1}\n").unwrap();
    record_calls(settings(dir.path()), &[&[]]);
    assert_eq!(reader(dir.path()).since(0, PAGE_MAX).unwrap().records.len(), 4);
}

#[test]
fn a_clock_that_was_set_back_does_not_set_records_back() {
    let dir = tempfile::tempdir().unwrap();
    let future = now_us() + 3_600_000_000;
    fs::write(dir.path().join(format!("calls-{future:020}.jsonl")), format!("{{\"msg_ts\":{future}}}\n"))
        .unwrap();
    record_calls(settings(dir.path()), &[&[]]);
    let page = reader(dir.path()).since(future, PAGE_MAX).unwrap();
    let found: Vec<_> = values(&page).iter().map(|record| record["msg_ts"].as_u64().unwrap()).collect();
    assert_eq!(found, [future + 1, future + 2]);
}

#[test]
fn a_directory_that_cannot_be_written_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Recorder::start(settings(&file)).unwrap_err().to_string();
    assert!(error.starts_with("records.directory: cannot write in "), "{error}");
}

#[test]
fn nothing_is_recorded_unless_it_is_configured() {
    let recorder = Recorder::off();
    let about = about("c");
    recorder.begin(&about);
    recorder.end(&about, &[], Duration::ZERO, true);
}
