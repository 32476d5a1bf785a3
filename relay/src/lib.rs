//! The calling relay.

pub mod api;
pub mod check;
pub mod config;
pub mod init;
pub mod key;
pub mod metrics;
pub mod records;
pub mod token;

/// Stand-in until the real one is merged.
pub mod sdp {
    /// stub
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
    pub enum CodecName {
        #[serde(rename = "opus")]
        Opus,
        #[serde(rename = "red")]
        Red,
        #[serde(rename = "VP8")]
        Vp8,
        #[serde(rename = "VP9")]
        Vp9,
        #[serde(rename = "H264")]
        H264,
        #[serde(rename = "AV1")]
        Av1,
    }
    impl CodecName {
        pub const DEFAULT: [Self; 6] = [Self::Opus, Self::Red, Self::Vp8, Self::Vp9, Self::H264, Self::Av1];
    }
}
