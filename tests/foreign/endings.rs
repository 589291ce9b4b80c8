//! How an archive may end.

use imagefs::tarfile::{EndMark, Oddity, ScanError, Scanner};

use super::archive::{END, file, tar};
use super::tools::{extracted, indexed};

#[test]
fn what_follows_the_end_mark_of_a_users_archive_is_passed_over_and_noted() {
    let whole = tar(&[file("a", "1"), file("b", "2")]);
    let entries = &whole[..whole.len() - END.len()];
    let cases = [
        (Oddity::TrailingData, [&whole[..], b"the rest of a record, as AIX and old ant leave it"].concat()),
        (Oddity::TrailingData, [&whole[..], &tar(&[file("c", "3")])].concat()),
        (Oddity::TrailingData, [entries, &[0; 512], &file("c", "3")].concat()),
        (Oddity::NoEndMark, entries.to_vec()),
    ];
    let archives: Vec<Vec<u8>> = cases.iter().map(|(_, archive)| archive.clone()).collect();
    let expected = indexed(&whole).unwrap();
    assert!(expected.1.is_empty() && expected.0.len() == 2);
    for ((oddity, archive), tools) in cases.iter().zip(extracted(&archives)) {
        let (found, oddities) = indexed(archive).unwrap();
        assert_eq!(found, expected.0);
        assert_eq!(oddities.of(*oddity), 1, "{oddities}");
        for theirs in tools.into_iter().flatten() {
            assert_eq!(theirs, found);
        }
        // A daemon's stream has to end as it should: an excuse in its body must not pass.
        let mut scanner = Scanner::new(&archive[..], EndMark::Required);
        let error = std::iter::from_fn(|| scanner.next_entry().transpose()).find_map(Result::err);
        assert!(
            matches!(error, Some(ScanError::TrailingData { .. } | ScanError::Truncated { .. })),
            "{error:?}"
        );
    }
}

#[test]
fn an_archive_that_ends_in_the_middle_of_an_entry_is_refused() {
    let whole = tar(&[file("a", "1"), file("b", &"2".repeat(600))]);
    for end in [whole.len() - END.len() - 512, whole.len() - END.len() - 1024 - 100, 1024 + 100, 100] {
        assert!(indexed(&whole[..end]).is_err(), "{end}");
    }
}
