//! Tiles: what they say of slots and connections, and what the relay is told of them.

use serde_json::json;
use trunkline_browser::{Browser, Options};

use super::{KEY, PATIENCE, all_pictures_move, assert_named, enter, errors, mirror, screenshot, serve};

#[tokio::test]
async fn a_paused_tile_keeps_its_own_last_picture_and_every_tile_tells_of_its_connection() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben", "chloe"])).await.unwrap();
    all_pictures_move(&page, 3).await;
    // Once its picture moved, a tile has one to keep.
    let change = "const [name, change] = arguments; const { slots } = window.trunklineCall; \
        const { mid } = slots.find((each) => each.kind === 'video' && each.participant === name); \
        window.mirror.tell({ event: 'slots', slots: [{ slot: mid, ...change }] })";
    let shown = async |name: &str, what: &str| {
        let tile = format!("document.querySelector('.tile[data-participant={name}]')");
        page.wait_until(&format!("{tile}?.{what}"), PATIENCE).await.unwrap();
    };
    page.run(change, &[json!("ben"), json!({ "paused": true })]).await.unwrap();
    shown("ben", "querySelector('.paused').innerText === 'Paused: your connection is slow'").await;
    shown("ben", "dataset.picture === 'true'").await;
    // Whoever comes into a paused slot has shown nothing yet.
    page.run(change, &[json!("ben"), json!({ "participant": "dmitri", "csrc": 77 })]).await.unwrap();
    shown("dmitri", "dataset.picture === 'false'").await;
    page.screenshot(&screenshot("room-paused")).await.unwrap();
    page.run(change, &[json!("dmitri"), json!({ "paused": false })]).await.unwrap();
    shown("dmitri", "querySelector('.paused').hidden").await;
    shown("dmitri", "dataset.picture === 'true'").await;

    let tell = "window.mirror.tell({ event: 'quality', ...arguments[0] })";
    let chloes = json!({ "participant": "chloe", "quality": "poor", "cause": "uplink_loss" });
    page.run(tell, &[chloes]).await.unwrap();
    let words = "Connection of chloe: poor, what they send arrives with gaps";
    shown("chloe", &format!("querySelector('.quality').title === '{words}'")).await;
    assert_eq!(page.text("#connection").await.unwrap(), "Good connection", "hers is hers");
    let annas = json!({ "participant": "anna", "quality": "fair", "cause": "bandwidth" });
    page.run(tell, &[annas]).await.unwrap();
    let own = "Fair connection: it carries less than there is to see";
    assert_eq!(page.text("#connection").await.unwrap(), own);
    assert_named(&page).await;
    page.screenshot(&screenshot("room-connections")).await.unwrap();

    // Who cannot point at a tile finds it among the people.
    page.set_size(390, 760).await.unwrap();
    page.click("#people-toggle").await.unwrap();
    let chloes = "Poor connection: what they send arrives with gaps";
    for (name, words) in [("chloe", chloes), ("anna", own), ("ben", "")] {
        let said =
            format!("document.querySelector('#people-list li[data-name={name}] .connection')?.textContent");
        page.wait_until(&format!("{said} === '{words}'"), PATIENCE).await.unwrap();
    }
    assert_named(&page).await;
    page.screenshot(&screenshot("room-people-narrow")).await.unwrap();
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_relay_is_told_how_high_tiles_are_when_they_change() {
    let base = serve().await;
    let browser = Browser::start(&Options::default()).await.unwrap();
    let page = browser.first_page();
    enter(&page, &base, KEY, &mirror(KEY, &["ben"])).await.unwrap();
    page.set_size(1280, 800).await.unwrap();
    let told = "window.mirror.asked.findLast(({ pin }) => pin?.participant === null)?.pin.height";
    let large = page.wait_until(&format!("{told} > 300 && {told}"), PATIENCE).await.unwrap();
    page.set_size(320, 480).await.unwrap();
    let small = page.wait_until(&format!("{told} < 200 && {told}"), PATIENCE).await.unwrap();
    println!("{large}, then {small}");
    // Nobody was pinned by that.
    assert_eq!(page.value("window.trunklineCall.slots.some(({ pinned }) => pinned)").await.unwrap(), false);
    assert_eq!(errors(&browser).await, Vec::<String>::new());
}
