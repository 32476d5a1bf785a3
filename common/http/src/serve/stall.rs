//! Ends a connection on which nothing moves any more, in either direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A byte stream that fails with [`io::ErrorKind::TimedOut`] after `limit` without progress.
pub(super) struct StallGuard<S> {
    inner: S,
    limit: Duration,
    progress: Instant,
    /// Set for `progress + limit` or earlier: moving it at every byte would cost more than it gives.
    timer: Pin<Box<Sleep>>,
}

impl<S> StallGuard<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        let progress = Instant::now();
        Self { inner, limit, progress, timer: Box::pin(tokio::time::sleep_until(progress + limit)) }
    }

    /// What `outcome` becomes once the clock was looked at.
    fn check<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.progress = Instant::now();
            return outcome;
        }
        loop {
            ready!(self.timer.as_mut().poll(context));
            let deadline = self.progress + self.limit;
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.check(context, outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.check(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.check(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    // An idle connection is flushed again and again: that is no progress, and counting it would keep a dead one.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_byte_for_the_limit_fails() {
        let (_other, stream) = tokio::io::duplex(64);
        let mut guarded = StallGuard::new(stream, Duration::from_secs(90));
        let started = Instant::now();
        let error = guarded.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_in_either_direction_keeps_it_open() {
        let (mut other, stream) = tokio::io::duplex(64);
        let mut guarded = StallGuard::new(stream, Duration::from_secs(90));
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(60)).await;
            guarded.write_u8(1).await.unwrap();
            tokio::time::advance(Duration::from_secs(60)).await;
            other.write_u8(1).await.unwrap();
            guarded.read_u8().await.unwrap();
        }
    }
}
