//! What two operators and four people do with two deployments that did not know each other, in their browsers alone.

use serde_json::json;
use trunkline_browser::{Browser, Page};

use crate::browse::{
    PATIENCE, browser, click, errors, figure, figure_is, fill, go, is_marked, is_marked_as, is_read, log_in,
    mark, open_messages, paste, picture, says, see, there_is, there_is_no, write,
};
use crate::demo::Demo;

/// A network of alpha, and of beta.
const NETWORK: &str = "main";

/// The pin on a console's identity page.
const PIN: &str = "document.querySelector('#our-pin').dataset.pin";

/// Messages that are under way before the certificate is changed, and after it was: enough to be before and after.
const FLOWING: usize = 8;

/// What ann's page does until `flow.runs` is false: one message after the other, each with its number.
const FLOW: &str = "window.flow = { sent: 0, runs: true }; \
    const next = async () => { \
        if (!flow.runs) return; \
        flow.sent += 1; \
        await trunklineMessenger.send('ben@beta.test', `flow ${flow.sent}`); \
        setTimeout(next, 50); \
    }; next()";

/// Frames of the other's camera that prove a call.
const FRAMES: u32 = 5;

/// Messages that wait for a peer that is paused.
const WAITING: usize = 5;

/// The consoles of both, and the messaging pages of one person at each.
struct Pages {
    alpha: Page,
    beta: Page,
    ann: Page,
    ben: Page,
}

#[tokio::test]
async fn two_operators_peer_talk_pause_refuse_rotate_and_call_through_their_consoles() {
    let demo = Demo::fresh().await;
    let browser = browser().await;
    let pages = Pages {
        alpha: browser.first_page(),
        beta: browser.new_page().await.unwrap(),
        ann: browser.new_page().await.unwrap(),
        ben: browser.new_page().await.unwrap(),
    };
    log_in(&pages.alpha, &demo, "alpha").await;
    log_in(&pages.beta, &demo, "beta").await;
    for console in [&pages.alpha, &pages.beta] {
        mark(console).await;
    }
    peer(&pages).await;
    open_messages(&pages.ann, &demo, "ann@alpha.test", "ben@beta.test").await;
    open_messages(&pages.ben, &demo, "ben@beta.test", "ann@alpha.test").await;
    talk(&pages).await;
    pause_and_resume(&pages).await;
    restrict(&pages).await;
    rotate(&pages).await;
    call(&browser, &pages).await;
    for console in [&pages.alpha, &pages.beta] {
        assert!(is_marked(console).await, "a console was loaded anew");
    }
    assert_eq!(unexpected(&browser).await, Vec::<String>::new());
}

/// What went wrong otherwise than by refusals, which are meant.
async fn unexpected(browser: &Browser) -> Vec<String> {
    let mut errors = errors(browser).await;
    errors.retain(|error| !error.contains("status of 403"));
    errors
}

/// Alpha invites beta: the bundle goes from one console into the other, and the answer back.
async fn peer(pages: &Pages) {
    let Pages { alpha, beta, .. } = pages;
    let (alphas, betas) = (pin(alpha).await, pin(beta).await);
    go(alpha, "#/peers").await;
    click(alpha, "#empty-invite").await;
    fill(alpha, "#invite-domain", "beta.test").await;
    click(alpha, "#invite-dialog-submit").await;
    let invitation = bundle(alpha, "#bundle-dialog").await;
    there_is(alpha, "#peers-table [data-domain='beta.test'][data-state=invited]").await;

    go(beta, "#/peers").await;
    click(beta, "#empty-accept").await;
    accept(beta, &invitation, "alpha.test", &alphas).await;
    let answer = bundle(beta, "#answer-dialog").await;

    click(alpha, "#peer-accept").await;
    accept(alpha, &answer, "beta.test", &betas).await;
    click(alpha, "#accepted-dialog-close").await;
    there_is(alpha, "#peers-table [data-domain='beta.test'][data-state=active][data-link=up]").await;
    there_is(beta, "#peers-table [data-domain='alpha.test'][data-state=active][data-link=up]").await;
}

/// The pin that a console says its own deployment has, which operators read to each other.
async fn pin(console: &Page) -> String {
    go(console, "#/identity").await;
    console.value(PIN).await.unwrap().as_str().expect("a pin").to_owned()
}

/// Takes what a dialog shows to be sent to the other operator, and closes it.
async fn bundle(console: &Page, dialog: &str) -> String {
    there_is(console, &format!("{dialog} #bundle-text")).await;
    let text = console.value("document.querySelector('#bundle-text').value").await.unwrap();
    click(console, &format!("{dialog}-close")).await;
    text.as_str().unwrap().to_owned()
}

/// Pastes a bundle, compares whom and which key it is from, and trusts it.
async fn accept(console: &Page, bundle: &str, from: &str, pin: &str) {
    paste(console, "#bundle-paste", bundle).await;
    there_is(console, &format!("#bundle-preview[data-domain='{from}']")).await;
    there_is(console, &format!("#preview-pin[data-pin='{pin}']")).await;
    click(console, "#accept-dialog-submit").await;
}

/// A message each way; both consoles count them while they are looked at.
async fn talk(pages: &Pages) {
    let Pages { alpha, beta, ann, ben } = pages;
    go(alpha, "#/peers/beta.test").await;
    go(beta, "#/peers/alpha.test").await;
    // Keys first: they are envelopes, too.
    for page in [ann, ben] {
        there_is(page, "#safety:not([hidden])").await;
    }
    let before = (figure(alpha, "peer-sent").await, figure(alpha, "peer-received").await);
    let at_beta = (figure(beta, "peer-sent").await, figure(beta, "peer-received").await);
    for (from, to, text) in [(ann, ben, "Good morning!"), (ben, ann, "Is it?")] {
        write(from, text).await;
        is_marked_as(from, text, "Delivered").await;
        is_read(to, text).await;
    }
    figure_is(alpha, "peer-sent", &format!("> {}", before.0)).await;
    figure_is(alpha, "peer-received", &format!("> {}", before.1)).await;
    figure_is(beta, "peer-sent", &format!("> {}", at_beta.0)).await;
    figure_is(beta, "peer-received", &format!("> {}", at_beta.1)).await;
}

/// What is written to a peer that is paused waits, and is delivered in order when it goes on.
async fn pause_and_resume(pages: &Pages) {
    let Pages { alpha, ann, ben, .. } = pages;
    figure_is(alpha, "peer-depth", "=== 0").await;
    click(alpha, "#peer-pause").await;
    there_is(alpha, "#peer-resume").await;
    for number in 1..=WAITING {
        write(ann, &format!("waiting {number}")).await;
        is_marked_as(ann, &format!("waiting {number}"), "Waiting for beta.test").await;
    }
    figure_is(alpha, "peer-depth", &format!("=== {WAITING}")).await;
    alpha.screenshot(&picture("story-paused")).await.unwrap();
    click(alpha, "#peer-resume").await;
    figure_is(alpha, "peer-depth", "=== 0").await;
    for number in 1..=WAITING {
        is_marked_as(ann, &format!("waiting {number}"), "Delivered").await;
    }
    let wanted: Vec<_> = (1..=WAITING).map(|number| format!("waiting {number}")).collect();
    let read = "[...document.querySelectorAll('.message[data-own=false] .text')].map((each) => each.textContent)\
        .filter((text) => text.startsWith('waiting'))";
    see(ben, &format!("{read}.length >= {WAITING}")).await;
    assert_eq!(ben.value(read).await.unwrap(), json!(wanted));
}

/// Alpha lets only networks write that it names, which are none: beta's console shows why what ben writes is refused.
async fn restrict(pages: &Pages) {
    let Pages { alpha, beta, ben, .. } = pages;
    federate(alpha, "restricted").await;
    go(beta, "#/outbox").await;
    write(ben, "May I?").await;
    is_marked_as(ben, "May I?", "Refused").await;
    is_marked_as(ben, "May I?", "does not permit the other").await;
    there_is(beta, &departure("refused", "alpha.test")).await;
    beta.screenshot(&picture("story-refused")).await.unwrap();
    go(alpha, "#/outbox").await;
    there_is(alpha, &departure("rejected", "beta.test")).await;
    federate(alpha, "open").await;
    write(ben, "And now?").await;
    is_marked_as(ben, "And now?", "Delivered").await;
}

fn departure(outcome: &str, peer: &str) -> String {
    format!("#departures-table [data-outcome={outcome}][data-reason=not-permitted][data-domain='{peer}']")
}

/// Says on a network's page how far it federates.
async fn federate(console: &Page, federation: &str) {
    go(console, &format!("#/networks/{NETWORK}")).await;
    click(console, &format!("label:has(#federation-{federation})")).await;
    click(console, "#network-save").await;
    there_is_no(console, "#savebar").await;
    go(console, "#/networks").await;
    there_is(console, &format!("#networks-table [data-network={NETWORK}][data-federation={federation}]"))
        .await;
}

/// Alpha changes its certificate while ann writes and writes: all of it arrives once, in order, with its receipt.
async fn rotate(pages: &Pages) {
    let Pages { alpha, beta, ann, ben } = pages;
    go(alpha, "#/identity").await;
    go(beta, "#/peers/alpha.test").await;
    let old = alpha.value(PIN).await.unwrap();
    ann.run(FLOW, &[]).await.unwrap();
    flowing(ben, 0).await;
    click(alpha, "#rotate").await;
    there_is(alpha, ".readiness [data-domain='beta.test'][data-ready=true]").await;
    let next = alpha.value("document.querySelector('#next-pin').dataset.pin").await.unwrap();
    assert_ne!(old, next);
    alpha.screenshot(&picture("story-rotation")).await.unwrap();
    click(alpha, "#activate").await;
    click(alpha, "#activate-dialog-submit").await;
    see(alpha, &format!("{PIN} === {next}")).await;
    // The link that is up goes on with the old one; the next one shows the new one.
    flowing(ben, flow(ben).await.len()).await;
    go(alpha, "#/peers/beta.test").await;
    click(alpha, "#peer-pause").await;
    click(alpha, "#peer-resume").await;
    there_is(beta, &format!("#peer-pins [data-pin={next}][data-state=current]")).await;
    there_is(beta, &format!("#peer-pins [data-pin={old}][data-state=retiring]")).await;
    flowing(ben, flow(ben).await.len()).await;
    ann.run("flow.runs = false", &[]).await.unwrap();

    let settled = "trunklineMessenger.messagesWith('ben@beta.test').every(({ own, state }) => \
        !own || ['delivered', 'refused'].includes(state)) && flow.sent";
    let sent = see(ann, settled).await.as_u64().expect("a number");
    let delivered = "trunklineMessenger.messagesWith('ben@beta.test').filter(({ own, text, state }) => \
        own && text.startsWith('flow ') && state === 'delivered').length";
    assert_eq!(ann.value(delivered).await.unwrap(), sent);
    let wanted: Vec<_> = (1..=sent).map(|number| format!("flow {number}")).collect();
    see(ben, &format!("{FLOWED}.length >= {sent}")).await;
    assert_eq!(flow(ben).await, wanted);
    there_is(beta, "#peer-figures").await;
}

/// What ben's page has of the flow.
const FLOWED: &str = "trunklineMessenger.messagesWith('ann@alpha.test').filter(({ own, state }) => \
    !own && state === 'opened').map(({ text }) => text).filter((text) => text.startsWith('flow '))";

async fn flow(ben: &Page) -> Vec<String> {
    let texts = ben.value(FLOWED).await.unwrap();
    texts.as_array().expect("a list").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Waits until enough more has come. Each is sealed, stored by two pages and two gateways, and receipted.
async fn flowing(ben: &Page, before: usize) {
    let more = format!("{FLOWED}.length >= {}", before + FLOWING);
    ben.wait_until(&more, 2 * PATIENCE).await.unwrap();
}

/// Ann starts a call at alpha and invites ben, who joins from his page; alpha's console shows both, and ends it.
async fn call(browser: &Browser, pages: &Pages) {
    let Pages { alpha, beta, ann, ben } = pages;
    go(alpha, "#/calls").await;
    click(ann, "#start-call").await;
    let anns = browser.opened_page(&[alpha, beta, ann, ben], PATIENCE).await.unwrap();
    click(&anns, "#join").await;
    see(&anns, "window.trunklineCall?.state === 'connected'").await;
    click(ann, "#invite:not(:disabled)").await;
    click(ben, ".message[data-own=false][data-kind=call] .join").await;
    let bens = browser.opened_page(&[alpha, beta, ann, ben, &anns], PATIENCE).await.unwrap();
    click(&bens, "#join").await;
    for page in [&anns, &bens] {
        see(page, "window.trunklineCall?.state === 'connected'").await;
        decodes(page).await;
        assert_eq!(page.text("#encryption").await.unwrap(), "End-to-end encrypted");
    }
    assert_eq!(
        bens.value("location.host").await.unwrap(),
        anns.value("location.host").await.unwrap(),
        "ben joins where ann is: at alpha"
    );

    let id = ann.value("trunklineMessenger.call.callId").await.unwrap();
    let row = format!("#calls-table [data-call='{}']", id.as_str().expect("the call's id"));
    let participants =
        format!("document.querySelector(\"{row} [data-label=Participants]\")?.textContent.trim()");
    see(alpha, &format!("/^2\\b/.test({participants})")).await;
    alpha.screenshot(&picture("story-call-console")).await.unwrap();
    anns.screenshot(&picture("story-call")).await.unwrap();
    click(alpha, &format!("{row} [data-action=end-call]")).await;
    click(alpha, "#end-dialog-submit").await;
    for page in [&anns, &bens] {
        says(page, "#farewell:not([hidden]) #farewell-title", "The call is over").await;
    }
    there_is_no(alpha, &row).await;
}

/// Waits until a page decodes more and more frames of the other's camera, which have a size.
async fn decodes(page: &Page) {
    let frames = "(await trunklineCall.stats()).slots.filter(({ frameWidth, frameHeight }) => \
        frameWidth > 0 && frameHeight > 0).reduce((sum, { framesDecoded }) => sum + framesDecoded, 0)";
    let before = see(page, &format!("{frames} > 0 && {frames}")).await;
    see(page, &format!("{frames} >= {before} + {FRAMES}")).await;
}
