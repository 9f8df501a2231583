//! What a process has used, as `/proc` tells it.

use super::Error;

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that graftd runs on (`proc(5)`,
/// `USER_HZ`).
const TICKS: f64 = 100.0;

/// A process.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// Resident memory in MB (10^6 bytes).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub resident: f64,
    /// The most so far.
    pub at_most: f64,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        Self(std::process::id())
    }

    /// Processor time in user and kernel so far, in seconds.
    pub fn cpu_seconds(self) -> Result<f64, Error> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // The second field is the program's name in brackets and may hold anything; utime and stime
        // are the 14th and 15th.
        let (_, rest) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
        let times = rest.split_whitespace().skip(11).take(2);
        Ok(times.map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum::<f64>() / TICKS)
    }

    /// Its memory.
    pub fn memory(self) -> Result<Memory, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            kibibytes.map_or(f64::NAN, |kibibytes: f64| kibibytes * 1024.0 / 1e6)
        };
        Ok(Memory { resident: field("VmRSS:"), at_most: field("VmHWM:") })
    }
}
