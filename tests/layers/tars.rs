//! How the tar of a layer may end.

use imagefs::tarfile::{EndMark, ScanError, Scanner};

use super::build::Layer;

fn scan(tar: &[u8], end_mark: EndMark) -> Result<usize, ScanError> {
    let mut scanner = Scanner::new(tar, end_mark);
    let mut entries = 0;
    while scanner.next_entry()?.is_some() {
        entries += 1;
    }
    Ok(entries)
}

#[test]
fn a_layer_may_end_after_any_entry() {
    let tar = Layer::new(0).file("a", "1").file("b", &"x".repeat(700)).tar();
    let content_end = 512 + 512 + 512 + 700;
    for end in [tar.len(), tar.len() - 512, tar.len() - 1024, content_end + 1, content_end] {
        assert_eq!(scan(&tar[..end], EndMark::Unneeded).unwrap(), 2, "{end}");
    }
    assert_eq!(scan(&tar[..512 + 512], EndMark::Unneeded).unwrap(), 1);
    assert_eq!(scan(&[], EndMark::Unneeded).unwrap(), 0);
    for end in [content_end - 1, 512 + 512 + 100, 100] {
        assert!(scan(&tar[..end], EndMark::Unneeded).is_err(), "{end}");
    }
    assert!(scan(&tar[..content_end], EndMark::Optional).is_err(), "of a lone tar nobody knows the length");
}

#[test]
fn what_follows_the_end_mark_of_a_layer_means_nothing() {
    let after_two = [Layer::new(0).file("a", "").tar(), b"an index of contents".to_vec()].concat();
    assert_eq!(scan(&after_two, EndMark::Unneeded).unwrap(), 1);
    assert_eq!(scan(&after_two, EndMark::Optional).unwrap(), 1, "nor of a tar of the user's");
    assert!(matches!(scan(&after_two, EndMark::Required), Err(ScanError::TrailingData { .. })));
    let one = [vec![0; 512], Layer::new(0).file("hidden", "").tar()].concat();
    assert!(matches!(scan(&one, EndMark::Unneeded), Err(ScanError::TrailingData { at: 512, .. })));
}
