//! Headers that one writer or another has written, each against the three tools.

use imagefs::tarfile::Oddity;

use super::archive::{Header, file, pax, record, tar};
use super::tools::{Listing, TOOLS, extracted, indexed};

/// What imagefs shows, which `agreeing` of the tools extract: `g`, `b`, `p`.
#[track_caller]
fn assert_as(cases: &[(&str, Vec<u8>)], agreeing: &str) {
    let archives: Vec<Vec<u8>> = cases.iter().map(|(_, archive)| archive.clone()).collect();
    for ((what, archive), tools) in cases.iter().zip(extracted(&archives)) {
        let ours = indexed(archive).unwrap_or_else(|error| panic!("{what}: {error}")).0;
        for (tool, (letter, theirs)) in TOOLS.iter().zip("gbp".chars().zip(tools)) {
            if agreeing.contains(letter) {
                assert_eq!(theirs.as_ref(), Some(&ours), "{what}: {tool}");
            }
        }
    }
}

fn listing(archive: &[u8]) -> Listing {
    indexed(archive).unwrap().0
}

fn begin_with(listing: &Listing, names: &[&str]) -> bool {
    listing.len() == names.len()
        && listing.iter().zip(names).all(|(line, name)| line.starts_with(&format!("{name} ")))
}

#[test]
fn a_prefix_counts_in_every_pedigree_that_has_one() {
    let with = |magic: &[u8; 8]| {
        let header = Header::new(b"f", b'0', 1).magic(magic).prefix(b"p/q");
        tar(&[header.and(b"1"), file("z", "2")])
    };
    assert_as(
        &[
            ("POSIX", with(b"ustar\x0000")),
            ("Perl's Archive::Tar", with(b"ustar\0 \0")),
            ("no version", with(b"ustar\0\0\0")),
            ("blanks as the version", with(b"ustar\0  ")),
            ("star", {
                let header = Header::new(b"f", b'0', 1).prefix(b"p/q").with(508, b"tar\0");
                tar(&[header.and(b"1"), file("z", "2")])
            }),
        ],
        "gbp",
    );
    // GNU tar and Go take the mix of both for V7.
    assert_as(&[("the mix", with(b"ustar 00"))], "bp");
    // Python takes whatever is there for a prefix.
    assert_as(&[("GNU", with(b"ustar  \0")), ("V7", with(&[0; 8]))], "gb");
    assert!(begin_with(&listing(&with(b"ustar\0 \0")), &["p", "p/q", "p/q/f", "z"]));
    assert!(begin_with(&listing(&with(b"ustar  \0")), &["f", "z"]));
}

#[test]
fn of_several_extended_headers_in_a_row_the_last_counts() {
    let archive = tar(&[
        pax(&[record("path", b"first"), record("mtime", b"1")]),
        pax(&[record("uid", b"9")]),
        file("f", "1"),
        file("z", "2"),
    ]);
    // bsdtar takes the last as well, but complains; Python merges them.
    assert_as(&[("two", archive.clone())], "g");
    assert!(begin_with(&listing(&archive), &["f", "z"]));
}

#[test]
fn a_directory_has_no_content_whatever_its_size() {
    let directory = |type_flag: u8, name: &[u8]| {
        let header = Header::new(name, type_flag, 1234).with(100, b"0000750\0").magic(&[0; 8]);
        tar(&[header.and(b""), file("z", "2")])
    };
    for (what, archive) in
        [("5", directory(b'5', b"d")), ("NUL", directory(0, b"d/")), ("0", directory(b'0', b"d/"))]
    {
        assert!(begin_with(&listing(&archive), &["d", "z"]), "{what}: {:?}", listing(&archive));
    }
    assert_as(&[("type 5", directory(b'5', b"d")), ("old style", directory(0, b"d/"))], "gb");
}

#[test]
fn numbers_are_read_as_most_tools_read_them() {
    let with =
        |at: usize, bytes: &[u8]| tar(&[Header::new(b"f", b'0', 0).with(at, bytes).and(b""), file("z", "2")]);
    assert_as(
        &[
            ("negative binary time", with(136, &[&[0xff; 11][..], &[0xfe]].concat())),
            ("a full time of blanks", with(136, b"           7")),
        ],
        "gbp",
    );
    // GNU tar reads on after one NUL, and refuses blanks alone.
    assert_as(
        &[
            ("uid after a NUL", with(108, b"\x00001234\0")),
            ("blank uid", with(108, b"        ")),
            ("NULs alone", with(116, &[0; 8])),
        ],
        "bp",
    );
}

#[test]
fn what_cannot_be_shown_leaves_the_rest_as_it_is() {
    let link =
        |name: &str, target: &str| Header::new(name.as_bytes(), b'1', 0).link(target.as_bytes()).and(b"");
    let directory = || Header::new(b"d/", b'5', 0).with(100, b"0000750\0").and(b"");
    let symlink = Header::new(b"l", b'2', 0).and(b"");
    let owner = Header::new(b"f", b'0', 0).with(108, &[0x80, 0, 0, 1, 0, 0, 0, 5]).and(b"");
    let invalid =
        |key: &str, value: &[u8]| tar(&[pax(&[record(key, value)]), file("f", "1"), file("z", "2")]);
    for (oddity, archive, names) in [
        (Oddity::LinkToDirectory, tar(&[directory(), link("l", "d"), file("z", "2")]), &["d", "z"][..]),
        (Oddity::LinkToDirectory, tar(&[link("l", "d"), directory(), file("z", "2")]), &["d", "z"]),
        (Oddity::LinkCycle, tar(&[link("l", "l"), file("z", "2")]), &["z"]),
        (Oddity::RootNotDirectory, tar(&[link("/", "."), file("z", "2")]), &["z"]),
        (Oddity::EmptySymlink, tar(&[symlink, file("z", "2")]), &["z"]),
        (Oddity::Owner, tar(&[owner, file("z", "2")]), &["f", "z"]),
        (Oddity::PaxValue, invalid("mtime", b"1e9"), &["f", "z"]),
        (Oddity::PaxValue, invalid("uid", b"nobody"), &["f", "z"]),
        (Oddity::PaxEntry, invalid("path", b"a\0b"), &["z"]),
        (Oddity::PaxEntry, invalid("GNU.sparse.map", b"1"), &["z"]),
        (Oddity::Xattr, invalid("SCHILY.xattr.user.a", &[b'x'; 65_537]), &["f", "z"]),
    ] {
        let (found, oddities) = indexed(&archive).unwrap_or_else(|error| panic!("{oddity:?}: {error}"));
        assert!(begin_with(&found, names), "{oddity:?}: {found:#?}");
        assert_eq!(oddities.of(oddity), 1, "{oddities}");
        assert!(oddities.to_string().contains("1 × "), "{oddities}");
    }
}

#[test]
fn a_negative_owner_wraps_as_chown_has_it() {
    let minus_two = [&[0xff; 7][..], &[0xfe]].concat();
    let header = Header::new(b"f", b'0', 0).with(108, &minus_two).with(116, &minus_two).and(b"");
    let (found, oddities) = indexed(&tar(&[header])).unwrap();
    assert!(found[0].contains("(4294967294, 4294967294)") && oddities.is_empty(), "{found:?} {oddities}");
}

#[test]
fn an_selinux_label_of_gnu_tars_is_an_extended_attribute() {
    let label = b"system_u:object_r:etc_t:s0\0";
    let archive = tar(&[pax(&[record("RHT.security.selinux", label)]), file("f", "1")]);
    let mut scanner = imagefs::tarfile::Scanner::new(&archive[..], imagefs::tarfile::EndMark::Required);
    let entry = scanner.next_entry().unwrap().unwrap();
    assert_eq!(entry.xattrs, [(b"security.selinux".to_vec(), label.to_vec())]);
}
