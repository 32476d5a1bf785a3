//! What the kernel thinks of its clock.
#![allow(unsafe_code, reason = "adjtimex(2) has no safe wrapper in what we build with")]

use std::mem::MaybeUninit;

/// Whether something keeps the clock right, as the kernel knows it; `None` when it does not say, as in some
/// containers.
pub(super) fn synchronised() -> Option<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: `state` is a valid, zeroed `timex`: all its fields are integers, and `modes` being 0 makes the call a
    // mere question, which writes within the structure only.
    let answer = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    (answer >= 0).then(|| {
        // SAFETY: zeroed above, and filled by a call that succeeded.
        let state = unsafe { state.assume_init() };
        answer != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn asking_changes_nothing_and_answers_the_same_twice() {
        assert_eq!(super::synchronised(), super::synchronised());
    }
}
