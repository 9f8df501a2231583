//! Moments.

use prost_types::Timestamp as WireTime;

use super::field::FieldError;
use crate::base::clock::Timestamp;

const MICROSECONDS: i64 = 1_000_000;

/// A moment for the wire.
pub fn to_wire(at: Timestamp) -> WireTime {
    WireTime {
        seconds: at.0.div_euclid(MICROSECONDS),
        nanos: (at.0.rem_euclid(MICROSECONDS) * 1000) as i32,
    }
}

/// The moment in a field, to the microsecond.
///
/// # Errors
/// Nanoseconds out of range, or a moment beyond what microseconds can count.
pub fn from_wire(field: &str, at: &WireTime) -> Result<Timestamp, FieldError> {
    if !(0..1_000_000_000).contains(&at.nanos) {
        let problem = format!("nanos must be 0 to 999999999, not {}", at.nanos);
        return Err(FieldError::new(field, problem));
    }
    at.seconds
        .checked_mul(MICROSECONDS)
        .and_then(|microseconds| microseconds.checked_add(i64::from(at.nanos) / 1000))
        .map(Timestamp)
        .ok_or_else(|| FieldError::new(field, "lies too far from now"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_moment_comes_back_from_the_wire(microseconds: i64) {
            let at = Timestamp(microseconds);
            prop_assert_eq!(from_wire("time", &to_wire(at)), Ok(at));
        }

        #[test]
        fn any_moment_of_the_wire_is_read_or_refused(seconds: i64, nanos: i32) {
            let _ = from_wire("time", &WireTime { seconds, nanos });
        }
    }
}
