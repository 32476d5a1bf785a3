//! What the kernel says a process used: memory and processor time.

use std::fs;
use std::time::Duration;

use crate::error::LoadError;

/// What a process used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// The most resident memory it ever had, in bytes.
    pub rss_peak_bytes: u64,
}

/// What process `pid` used so far.
///
/// # Errors
/// When it is gone.
pub(crate) fn usage(pid: u32) -> Result<Usage, LoadError> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).map_err(LoadError::io(format!("reading {path}")))
    };
    Ok(Usage { cpu: cpu_time(&read("stat")?), rss_peak_bytes: peak_memory(&read("status")?) })
}

/// Processor time that process `pid` and its children used so far, those included that it has waited for.
///
/// # Errors
/// When it is gone.
pub(crate) fn family_cpu(pid: u32) -> Result<Duration, LoadError> {
    let path = format!("/proc/{pid}/stat");
    let own = fs::read_to_string(&path).map_err(LoadError::io(format!("reading {path}")))?;
    let processes = fs::read_dir("/proc").map_err(LoadError::io("reading /proc"))?;
    // One may end between two looks: then its time is missing here, and with its parent the next time.
    let stats = processes.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let children: Duration = stats.filter(|stat| parent(stat) == Some(pid)).map(|stat| cpu_time(&stat)).sum();
    Ok(cpu_time(&own) + waited_for_time(&own) + children)
}

/// Processor time of all threads of process `pid` that run now, to the nanosecond.
///
/// # Errors
/// When it is gone.
pub(crate) fn scheduled(pid: u32) -> Result<Duration, LoadError> {
    let path = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&path).map_err(LoadError::io(format!("reading {path}")))?;
    let times = threads.flatten().filter_map(|thread| {
        // A thread may have ended by now.
        let line = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    Ok(Duration::from_nanos(times.sum()))
}

/// Memory that process `pid` has now, in bytes.
///
/// # Errors
/// When it is gone.
pub(crate) fn rss_bytes(pid: u32) -> Result<u64, LoadError> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(LoadError::io(format!("reading {path}")))?;
    Ok(memory(&status, "VmRSS:"))
}

/// `VmHWM` of `/proc/PID/status`, in bytes; the kernel prints it in KiB.
fn peak_memory(status: &str) -> u64 {
    memory(status, "VmHWM:")
}

fn memory(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// `utime` and `stime`, fields 14 and 15 of `/proc/PID/stat`.
fn cpu_time(stat: &str) -> Duration {
    two_times(stat, 14)
}

/// `cutime` and `cstime`, fields 16 and 17 of `/proc/PID/stat`: those of children that ended.
fn waited_for_time(stat: &str) -> Duration {
    two_times(stat, 16)
}

/// Field 4 of `/proc/PID/stat`.
fn parent(stat: &str) -> Option<u32> {
    fields_from(stat, 4).next()?.parse().ok()
}

/// The fields of `/proc/PID/stat` from number `first` on. The name in field 2 may hold anything, so the count starts
/// after its closing bracket.
fn fields_from(stat: &str, first: usize) -> impl Iterator<Item = &str> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(first.saturating_sub(3))
}

/// The sum of two fields that count clock ticks.
fn two_times(stat: &str, first: usize) -> Duration {
    let ticks: u64 = fields_from(stat, first).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_micros(ticks.saturating_mul(1_000_000) / hertz)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) b ) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 3 0 10 1000 200";
        let hertz = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu_time(stat), Duration::from_micros(200 * 1_000_000 / hertz));
        assert_eq!(parent(stat), Some(1));
    }

    #[test]
    fn the_time_of_children_that_ended_is_told_from_ones_own() {
        let stat = "7 (a) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 30 40 20 0 3 0 10 1000 200";
        let hertz = rustix::param::clock_ticks_per_second();
        assert_eq!(waited_for_time(stat), Duration::from_micros(70 * 1_000_000 / hertz));
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(peak_memory(status), 2048 * 1024);
        assert_eq!(memory(status, "VmRSS:"), 1024 * 1024);
    }

    #[test]
    fn this_very_process_has_memory() {
        assert!(usage(std::process::id()).unwrap().rss_peak_bytes > 0);
        assert!(rss_bytes(std::process::id()).unwrap() > 0);
        assert!(!scheduled(std::process::id()).unwrap().is_zero());
        assert!(family_cpu(std::process::id()).is_ok());
    }
}
