//! The machine: memory, temperature, throttling, as Linux tells them in `/proc` and `/sys`.
//!
//! Everything is optional: containers and boards hide different files.

use std::fs;
use std::path::{Path, PathBuf};

/// Bits of the Raspberry Pi firmware's `get_throttled` that hold now: low voltage, frequency capped,
/// throttled, soft temperature limit.
/// <https://www.raspberrypi.com/documentation/computers/os.html#get_throttled>
const PI_THROTTLED_NOW: u64 = 0b1111;

/// Where the facts are read from.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// Bytes of memory; 0 where not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The machine's.
    pub total: u64,
    /// What could be given to programs now.
    pub available: u64,
    /// What this process holds.
    pub resident: u64,
}

/// Whether the processor is held below its speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Slowed down now by heat or low voltage.
    pub active: bool,
    /// The first core's frequency now, in megahertz; 0 where not told.
    pub frequency_mhz: u32,
    /// The most that it may run at, in megahertz; 0 where not told.
    pub maximum_frequency_mhz: u32,
    /// Times that the first core was slowed down by heat since boot.
    pub thermal_events: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self { root: PathBuf::from("/") }
    }
}

impl Host {
    /// Reads below `root` instead of `/`, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The host's name; empty where not told.
    pub fn name(&self) -> String {
        self.text("proc/sys/kernel/hostname").unwrap_or_default()
    }

    /// The operating system's name for people; empty where not told.
    pub fn operating_system(&self) -> String {
        let release = self.text("etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        name.unwrap_or_default().trim_matches('"').to_owned()
    }

    /// The board's model; empty where not told.
    pub fn board(&self) -> String {
        self.text("proc/device-tree/model")
            .or_else(|| self.text("sys/class/dmi/id/product_name"))
            .unwrap_or_default()
    }

    /// The processor's name; empty where not told (most ARM kernels).
    pub fn processor(&self) -> String {
        let info = self.text("proc/cpuinfo").unwrap_or_default();
        let named = info.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        named.unwrap_or_default()
    }

    /// The average number of runnable tasks over the last minute.
    pub fn load_average(&self) -> Option<f32> {
        self.text("proc/loadavg")?.split_whitespace().next()?.parse().ok()
    }

    /// Memory of the machine and of this process.
    pub fn memory(&self) -> Memory {
        let machine = self.text("proc/meminfo").unwrap_or_default();
        let process = self.text("proc/self/status").unwrap_or_default();
        Memory {
            total: kibibytes(&machine, "MemTotal"),
            available: kibibytes(&machine, "MemAvailable"),
            resident: kibibytes(&process, "VmRSS"),
        }
    }

    /// The hottest thermal zone, in degrees Celsius.
    pub fn temperature(&self) -> Option<f32> {
        let zones = self.entries("sys/class/thermal", "thermal_zone");
        let millidegrees = zones.filter_map(|zone| read(&zone.join("temp"))?.parse::<f32>().ok());
        // Unconnected sensors report absurd values.
        let degrees =
            millidegrees.map(|value| value / 1000.0).filter(|d| (-50.0..150.0).contains(d));
        degrees.reduce(f32::max)
    }

    /// Whether the processor is slowed down; `None` where nothing tells.
    pub fn throttling(&self) -> Option<Throttling> {
        let cpu = "sys/devices/system/cpu/cpu0";
        let kilohertz = |file: &str| self.number(&format!("{cpu}/cpufreq/{file}"));
        let frequency = kilohertz("scaling_cur_freq");
        let maximum = kilohertz("cpuinfo_max_freq");
        let events = self.number(&format!("{cpu}/thermal_throttle/core_throttle_count"));
        let firmware = self.text("sys/devices/platform/soc/soc:firmware/get_throttled");
        let cooling = self.processor_cooling();
        if frequency.is_none() && events.is_none() && firmware.is_none() && cooling.is_none() {
            return None;
        }
        let firmware =
            firmware.and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let megahertz = |value: Option<u64>| (value.unwrap_or(0) / 1000) as u32;
        Some(Throttling {
            active: cooling.unwrap_or(false) || firmware.unwrap_or(0) & PI_THROTTLED_NOW != 0,
            frequency_mhz: megahertz(frequency),
            maximum_frequency_mhz: megahertz(maximum),
            thermal_events: events.unwrap_or(0),
        })
    }

    /// Whether a cooling device that slows the processor down is at work.
    fn processor_cooling(&self) -> Option<bool> {
        let devices = self.entries("sys/class/thermal", "cooling_device").filter(|device| {
            let kind = read(&device.join("type")).unwrap_or_default();
            kind == "Processor"
                || kind.starts_with("cpufreq")
                || kind.starts_with("thermal-cpufreq")
        });
        let states = devices.filter_map(|device| read(&device.join("cur_state")));
        states.map(|state| state != "0").reduce(|one, other| one || other)
    }

    fn entries(&self, folder: &str, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.root.join(folder)).into_iter().flatten();
        entries
            .filter_map(Result::ok)
            .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
    }

    fn text(&self, path: &str) -> Option<String> {
        read(&self.root.join(path))
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }
}

/// A small file's text without the white space and the NUL (device tree) at its end.
fn read(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// The value of a line such as `MemTotal:  3884360 kB`, in bytes; 0 where there is none.
fn kibibytes(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let count = value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok());
    count.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::below(folder.path());
        (folder, host)
    }

    #[test]
    fn a_hot_raspberry_pi_tells_its_board_heat_and_throttling() {
        let (_folder, host) = host(&[
            ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("proc/meminfo", "MemTotal:        3884360 kB\nMemAvailable:    2000000 kB\n"),
            ("proc/self/status", "Name:\tgraftd\nVmRSS:\t   61440 kB\n"),
            ("sys/class/thermal/thermal_zone0/temp", "81234\n"),
            ("sys/class/thermal/thermal_zone1/temp", "-274000\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "600000\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1500000\n"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n"),
        ]);
        assert_eq!(host.board(), "Raspberry Pi 4 Model B Rev 1.4");
        let memory =
            Memory { total: 3_884_360 << 10, available: 2_000_000 << 10, resident: 60 << 20 };
        assert_eq!(host.memory(), memory);
        assert_eq!(host.temperature(), Some(81.234));
        let throttling = host.throttling().unwrap();
        assert!(throttling.active);
        assert_eq!((throttling.frequency_mhz, throttling.maximum_frequency_mhz), (600, 1500));
    }

    #[test]
    fn throttling_in_the_past_is_not_throttling_now() {
        let file = "sys/devices/platform/soc/soc:firmware/get_throttled";
        assert!(!host(&[(file, "50000")]).1.throttling().unwrap().active);
    }

    #[test]
    fn a_machine_that_tells_nothing_is_described_without_guesses() {
        let (_folder, host) = host(&[("proc/meminfo", "garbage")]);
        assert_eq!(host.memory(), Memory::default());
        assert_eq!(host.temperature(), None);
        assert_eq!(host.throttling(), None);
        assert_eq!((host.board(), host.load_average()), (String::new(), None));
    }
}
