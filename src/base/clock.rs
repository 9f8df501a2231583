//! Wall-clock time as the store and the wire see it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970-01-01T00:00:00Z. Device clocks jump: never use differences of these for
/// intervals, only for display and for ordering by day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The time now; 0 on a device whose clock stands before 1970.
pub fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).into()
}

impl Timestamp {
    /// The same moment for the standard library; moments before 1970 become 1970.
    pub fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for Timestamp {
    fn from(since_epoch: Duration) -> Self {
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}
