//! Times as JSON and records have them.

/// The present time as RFC 3339, in UTC.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    rfc3339(u64::try_from(now.as_second()).unwrap_or(0)).unwrap_or_else(|| now.to_string())
}

/// A time, given in seconds since 1970-01-01 UTC, as RFC 3339.
pub fn rfc3339(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}
