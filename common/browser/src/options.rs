//! What a browser is started with.

/// What a page gets when it asks for camera and microphone. There never is a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// A camera with a moving picture and a clock, a microphone that beeps every second.
    #[default]
    Fake,
    /// The person says no.
    Denied,
    /// There are none.
    None,
}

/// How to start a browser.
#[derive(Clone, Debug)]
pub struct Options {
    /// Camera and microphone.
    pub devices: Devices,
    /// Size of the first window, in pixels.
    pub window: (u32, u32),
    /// The title of the tab that a page gets when it asks to share a screen. None: the fake screen, which shows a
    /// moving picture as the fake camera does.
    pub shared_tab: Option<String>,
    /// Further flags, such as `--force-webrtc-ip-handling-policy=…`.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { devices: Devices::default(), window: (1280, 800), shared_tab: None, flags: Vec::new() }
    }
}

/// For a closed network, a machine without a screen, and tests that repeat.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--lang=en-GB",
    // Pages behind other pages work as those in front: a call has several in one browser.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    // Media plays without a click.
    "--autoplay-policy=no-user-gesture-required",
    // Candidates of 127.0.0.1 and ::1, and none that need multicast DNS.
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns,DialMediaRouteProvider,Translate",
];

impl Options {
    /// All flags.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
        arguments.push(format!("--window-size={},{}", self.window.0, self.window.1));
        match self.devices {
            Devices::Fake => arguments.extend(
                ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"].map(String::from),
            ),
            Devices::Denied => arguments.extend(
                ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny"]
                    .map(String::from),
            ),
            Devices::None => arguments.extend(
                ["--use-fake-device-for-media-stream=device-count=0", "--use-fake-ui-for-media-stream"]
                    .map(String::from),
            ),
        }
        if let Some(title) = &self.shared_tab {
            arguments.push(format!("--auto-select-tab-capture-source-by-title={title}"));
        }
        if rustix::process::getuid().is_root() {
            // Its sandbox refuses to work for root.
            arguments.push("--no-sandbox".to_owned());
        }
        arguments.extend(self.flags.iter().cloned());
        arguments
    }
}
