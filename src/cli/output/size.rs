//! Sizes as people write and read them.

/// A number of bytes that `text` spells: `4096`, `512MiB`, `10G` (1024³), `10GB` (1000³).
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(format!("unknown unit {unit:?}: write B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB")),
    };
    let bad = || "write a number and a unit, as in 10GiB".to_owned();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let fraction = fraction.trim_end_matches('0');
    let parts = match fraction.len() {
        0 => 0,
        digits @ 1..=9 => {
            u128::from(fraction.parse::<u32>().map_err(|_| bad())?) * u128::from(scale)
                / 10_u128.pow(digits as u32)
        }
        _ => return Err("too many digits after the point".into()),
    };
    let bytes = u128::from(whole) * u128::from(scale) + parts;
    u64::try_from(bytes).map_err(|_| "too large".into())
}

/// A number of bytes with three significant digits at most: `0 B`, `1.5 KiB`, `816 MiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        // What would be shown as 1000 or more reads better as the next unit.
        if value < 999.5 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_in_binary_and_decimal_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("10g", 10 << 30),
            ("1.5K", 1536),
            ("2 MB", 2_000_000),
            (".5k", u64::MAX),
        ] {
            match parse(text) {
                Ok(n) => assert_eq!(n, bytes, "{text}"),
                Err(_) => assert_eq!(bytes, u64::MAX, "{text}"),
            }
        }
        for bad in ["", "GiB", "-1", "1..5", "10 apples", "99999999999999999999", "16777216T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_is_shown_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (816 << 20, "816 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(show(bytes), text);
        }
    }
}
