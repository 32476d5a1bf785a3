//! Who gets into a console, and what they may do there.

use std::time::SystemTime;

use serde_json::{Value, json};
use trunkline_browser::{Browser, Page};

use crate::browse::{
    browser, click, enter, errors, fill, go, is_marked, log_in, mark, picture, says, see, there_is,
    there_is_no,
};
use crate::demo::Demo;
use crate::totp;

/// The password that vera chooses.
const VERAS: &str = "correct horse battery";

/// Wrong passwords after which a log-in is locked out.
const GUESSES: usize = 10;

/// The longest that anybody is locked out, in seconds.
const LOCK_OUT_MAX_S: u64 = 60;

/// What only administrators, or operators and they, are shown.
const DANGEROUS: [(&str, &[&str]); 9] = [
    ("#/identity", &["#make-invitation", "#rotate"]),
    ("#/peers", &["#peer-invite", "#peer-accept", "#peer-add"]),
    ("#/peers/beta.test", &["#peer-pause", "#peer-remove", "#rotate-key", "[data-action=revoke-pin]"]),
    ("#/certificates", &["#certificate-add"]),
    ("#/domains", &["[data-action=hide-domain]"]),
    ("#/networks", &["#network-add"]),
    ("#/outbox", &["#retry-all"]),
    ("#/calls", &["[data-action=end-call]", "[data-action=drain]"]),
    ("#/settings", &["[data-tab=administrators]", "[data-tab=tokens]", "[data-tab=doctor]"]),
];

/// The same, asked of the API without a button: each is refused to who only looks.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    ("POST", "/peers/beta.test/pause", ""),
    ("DELETE", "/peers/beta.test", ""),
    ("POST", "/peers/invite", r#"{"domain": "gamma.test"}"#),
    ("POST", "/identity/rotate", ""),
    ("POST", "/outbox/purge", r#"{"domain": "beta.test"}"#),
    ("PUT", "/settings", r#"{"require_totp": true}"#),
    ("POST", "/administrators", r#"{"name": "eve", "role": "admin"}"#),
    ("POST", "/relays/relay-1/drain", "{}"),
];

#[tokio::test]
async fn a_console_lets_in_who_proves_who_they_are_once_at_a_time_and_as_far_as_their_role_goes() {
    let demo = Demo::peered().await;
    let (here, elsewhere) = (browser().await, browser().await);
    let (admin, other) = (here.first_page(), elsewhere.first_page());
    wrong_password(&admin, &demo).await;
    log_in(&admin, &demo, "alpha").await;
    second_session(&admin, &other, &demo).await;
    let first = new_administrator(&other, "vera", "viewer").await;
    let vera = here.new_page().await.unwrap();
    first_password(&vera, &demo, &first).await;
    role(&other, &vera).await;
    second_factor(&vera, &demo).await;
    locked_out(&vera, &demo).await;
    assert_eq!(unexpected(&here).await, Vec::<String>::new());
    assert_eq!(unexpected(&elsewhere).await, Vec::<String>::new());
}

/// What went wrong otherwise than by refusals, which are what is tried here.
async fn unexpected(browser: &Browser) -> Vec<String> {
    let mut errors = errors(browser).await;
    errors.retain(|error| {
        !["401", "403", "429"].iter().any(|code| error.contains(&format!("status of {code}")))
    });
    errors
}

async fn wrong_password(page: &Page, demo: &Demo) {
    enter(page, demo, "alpha", "admin", "not the password").await;
    says(page, "#gate-problem", "Name or password is wrong.").await;
    enter(page, demo, "alpha", "nobody", "not the password").await;
    says(page, "#gate-problem", "Name or password is wrong.").await;
    there_is_no(page, "#frame").await;
}

/// Logging in elsewhere ends a session: its page says so without being touched.
async fn second_session(first: &Page, second: &Page, demo: &Demo) {
    mark(first).await;
    log_in(second, demo, "alpha").await;
    says(first, "#login-reason", "logged in somewhere else").await;
    assert!(is_marked(first).await, "the first console was loaded anew");
}

/// An administrator makes another one: the first password is shown, once.
async fn new_administrator(admin: &Page, name: &str, role: &str) -> String {
    go(admin, "#/settings/administrators").await;
    click(admin, "#administrator-add").await;
    fill(admin, "#administrator-name", name).await;
    click(admin, &format!("label:has(#role-{role})")).await;
    click(admin, "#administrator-dialog-submit").await;
    there_is(admin, "#first-password").await;
    let password = admin.text("#first-password").await.unwrap();
    click(admin, "#password-dialog-close").await;
    there_is(admin, &format!("#administrators-table [data-name={name}][data-role={role}]")).await;
    password
}

/// The first password opens nothing but the choice of another one, which must keep the rules.
async fn first_password(vera: &Page, demo: &Demo, first: &str) {
    enter(vera, demo, "alpha", "vera", first).await;
    there_is(vera, "#password-form").await;
    assert_eq!(ask(vera, "GET", "/peers", "").await, json!([403, "password-change-needed"]));
    for (new, repeated, unmet) in
        [("too short", "too short", "12 to 128 characters"), (VERAS, "another", "twice the same")]
    {
        choose_password(vera, first, new, repeated).await;
        says(vera, "#gate-problem", unmet).await;
    }
    choose_password(vera, first, VERAS, VERAS).await;
    there_is(vera, "#live[data-state=live]").await;
    says(vera, "#account", "vera").await;
}

async fn choose_password(page: &Page, old: &str, new: &str, repeated: &str) {
    for (field, text) in [("#old-password", old), ("#new-password", new), ("#repeated-password", repeated)] {
        fill(page, field, text).await;
    }
    click(page, "#password-submit").await;
}

/// Who only looks is shown no button that changes something, and is refused by the server.
async fn role(admin: &Page, viewer: &Page) {
    for (place, buttons) in DANGEROUS {
        go(admin, place).await;
        go(viewer, place).await;
        for button in buttons {
            // Nothing runs on the calls' page that could be ended.
            if *button != "[data-action=end-call]" {
                there_is(admin, button).await;
            }
            there_is_no(viewer, button).await;
        }
    }
    for (method, path, body) in FORBIDDEN {
        assert_eq!(ask(viewer, method, path, body).await, json!([403, "forbidden"]), "{method} {path}");
    }
    assert_eq!(ask(viewer, "GET", "/peers", "").await[0], 200);
    // Without the secret that goes along, what changes something is refused to everybody.
    let forged = "(await fetch('/admin/v1/peers/beta.test/pause', { method: 'POST' })).status";
    assert_eq!(admin.value(forged).await.unwrap(), 403);
    there_is(admin, "#live[data-state=live]").await;
}

/// Asks the API as the page's session: the answer's status, and the kind of problem if it is one.
async fn ask(page: &Page, method: &str, path: &str, body: &str) -> Value {
    let ask = "const [method, path, body] = arguments; return (async () => { \
        const { csrf } = await (await fetch('/admin/v1/session')).json(); \
        const headers = { 'X-Trunkline-Csrf': csrf, ...(body && { 'Content-Type': 'application/json' }) }; \
        const answer = await fetch(`/admin/v1${path}`, { method, headers, body: body || undefined }); \
        const { type } = answer.ok ? {} : await answer.json(); \
        return [answer.status, type?.split(':').at(-1) ?? null]; })()";
    page.run(ask, &[json!(method), json!(path), json!(body)]).await.unwrap()
}

/// A second factor is set up with a code, and from then on each log-in takes one, which opens nothing twice.
async fn second_factor(vera: &Page, demo: &Demo) {
    go(vera, "#/settings/account").await;
    click(vera, "#totp-on").await;
    fill(vera, "#totp-password", VERAS).await;
    click(vera, "#enrol-dialog-submit").await;
    there_is(vera, "#totp-secret").await;
    vera.screenshot(&picture("two-factor")).await.unwrap();
    let secret = vera.text("#totp-secret").await.unwrap();
    let first = totp::code(&secret, SystemTime::now());
    fill(vera, "#totp-code", &first).await;
    click(vera, "#enrol-dialog-submit").await;
    there_is(vera, "#totp-off").await;
    click(vera, "#log-out").await;

    enter(vera, demo, "alpha", "vera", VERAS).await;
    there_is(vera, "#login-code").await;
    fill(vera, "#login-code", &first).await;
    click(vera, "#login-submit").await;
    says(vera, "#gate-problem", "That code is not right").await;
    // The next one is good already: clocks differ.
    fill(vera, "#login-code", &totp::code(&secret, SystemTime::now() + totp::STEP)).await;
    click(vera, "#login-submit").await;
    there_is(vera, "#live[data-state=live]").await;
}

/// Who guesses is locked out, and shown for how long.
async fn locked_out(page: &Page, demo: &Demo) {
    page.open(demo.of("beta", "console")).await.unwrap();
    fill(page, "#login-name", "admin").await;
    for number in 0..=GUESSES {
        fill(page, "#login-password", &format!("guess number {number}")).await;
        click(page, "#login-submit").await;
        see(page, "!document.querySelector('#login-submit').hasAttribute('aria-busy')").await;
    }
    there_is(page, "#lock-out").await;
    let seconds = see(page, "Number(document.querySelector('#lock-out').dataset.seconds)").await;
    let seconds = seconds.as_u64().expect("whole seconds");
    assert!((1..=LOCK_OUT_MAX_S).contains(&seconds), "{seconds} s");
    page.screenshot(&picture("locked-out")).await.unwrap();
    // It counts down, and the right password opens nothing meanwhile.
    see(page, &format!("Number(document.querySelector('#lock-out').dataset.seconds) < {seconds}")).await;
    let right = json!({ "name": demo.of("beta", "name"), "password": demo.of("beta", "password") });
    let status = "return fetch('/admin/v1/session', { method: 'POST', body: JSON.stringify(arguments[0]), \
        headers: { 'Content-Type': 'application/json' } }).then(({ status }) => status)";
    assert_eq!(page.run(status, &[right]).await.unwrap(), 429);
}
