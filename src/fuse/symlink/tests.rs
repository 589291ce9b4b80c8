use super::*;
use crate::fuse::testing::{Builder, find};

/// What readlink says of the symlink at `path` of mount 0.
fn shown(builder: Builder, path: &str, destinations: &[Destination]) -> String {
    let filesystem = builder.finish();
    let tree = filesystem.tree();
    answer(&Surroundings { tree, own: 0, root: tree, destinations }, path).unwrap()
}

fn answer(mounts: &Surroundings<'_>, path: &str) -> Result<String, SymlinkError> {
    let link = mounts.tree.stat(find(mounts.tree, path)).unwrap();
    let stored = mounts.tree.read_link(link.ino).unwrap();
    contain(mounts, &link, stored).map(|target| String::from_utf8(target).unwrap())
}

/// The same for a link `a/b/link` beside some other entries.
fn link(target: &str) -> String {
    let tree = Builder::new()
        .dir("a/b/c")
        .dir("etc")
        .file("etc/passwd", b"")
        .symlink("a/b/root", "/")
        .symlink("a/b/near", "c")
        .symlink("a/b/up", "..")
        .symlink("a/b/loop", "loop")
        .symlink("a/b/empty", "");
    shown(tree.symlink("a/b/link", target), "a/b/link", &[])
}

#[test]
fn a_target_that_stays_inside_is_as_stored() {
    for target in ["c", "./c//", "nowhere", "../../etc/passwd", "..", "../..", "", ".", "c/d/e/"] {
        assert_eq!(link(target), target);
    }
}

#[test]
fn an_absolute_target_becomes_relative() {
    assert_eq!(link("/etc/passwd"), "../../etc/passwd");
    assert_eq!(link("//etc/./passwd"), "../../etc/./passwd");
    assert_eq!(link("/./etc/"), "../../etc/");
    assert_eq!(link("/"), "../..");
    assert_eq!(link("/../../etc"), "../../etc");
    assert_eq!(shown(Builder::new().symlink("l", "/"), "l", &[]), ".");
    assert_eq!(shown(Builder::new().symlink("l", "/etc"), "l", &[]), "etc");
}

#[test]
fn a_target_that_climbs_over_the_root_stops_there() {
    assert_eq!(link("../../../etc/passwd"), "../../etc/passwd");
    assert_eq!(link("../.././../..//../etc"), "../../etc");
    assert_eq!(link("../../.."), "../..");
    assert_eq!(shown(Builder::new().symlink("l", ".."), "l", &[]), ".");
}

#[test]
fn a_climb_after_names_is_walked_before_it_is_let_through() {
    assert_eq!(link("c/../c"), "c/../c");
    assert_eq!(link("near/../c"), "near/../c");
    assert_eq!(link("up/../etc"), "up/../etc");
    assert_eq!(link("c/../../../../etc/passwd"), "../../etc/passwd");
    // Four steps up from what looks four deep, and is the root.
    assert_eq!(link("root/../../etc/passwd"), "../../etc/passwd");
    assert_eq!(link("up/../../../etc"), "../../etc");
    assert_eq!(link("/a/b/../b/c"), "../../a/b/c");
    assert_eq!(link("/a/b/up/../etc"), "../../etc");
    assert_eq!(link("/a/../etc/passwd/"), "../../etc/passwd/.");
    assert_eq!(link("/a/../etc/passwd/."), "../../etc/passwd/.");
}

#[test]
fn a_climb_that_never_happens_is_not_shown_where_it_could() {
    // The kernel stops at what is missing, is no directory, or has no target.
    assert_eq!(link("nowhere/../../../../etc"), "nowhere/../../../../etc");
    assert_eq!(link("/etc/passwd/../../x"), "../../etc/passwd/.");
    assert_eq!(link("/nowhere/deep/../../../etc"), "../../nowhere/deep/.");
    assert_eq!(link("loop/../../../../etc"), "loop/.");
    assert_eq!(link("empty/../../../../etc"), "empty/.");
}

#[test]
fn a_link_with_several_names_shows_no_climb_after_names() {
    let tree =
        || Builder::new().dir("d/e/f").dir("x").symlink("d/e/one", "x/../../y").link("d/e/f/two", "d/e/one");
    // In `d/e` there is no `x`; wherever else the link has a name there may be.
    assert_eq!(shown(tree(), "d/e/one", &[]), "x/.");
    assert_eq!(shown(tree(), "d/e/f/two", &[]), "x/.");
    let through = tree().symlink("through", "d/e/one/../../../../etc");
    assert_eq!(shown(through, "through", &[]), "d/e/x/.");
}

#[test]
fn a_target_beneath_another_mount_leads_there() {
    let destinations = [
        Destination::new(0, b"/", b"rootfs", false),
        Destination::new(1, b"/var/lib/data", b"var-lib-data", false),
        Destination::new(2, b"//var/./lib/data/sub/", b"sub", false),
        Destination::new(3, b"/a/b/c", b"a-b-c", false),
    ];
    let in_dir = |dir: &str, target: &str| {
        let tree = Builder::new()
            .dir("var/lib/data/hidden")
            .dir("a/b")
            .dir("a/b/c")
            .symlink("a/b/near", "c")
            .dir("etc/a/b");
        let link = format!("{dir}/link");
        shown(tree.symlink(&link, target), &link, &destinations)
    };
    let at = |target: &str| in_dir("a/b", target);
    assert_eq!(at("/var/lib/data/x"), "../../../var-lib-data/x");
    assert_eq!(at("/var/lib/data"), "../../../var-lib-data");
    assert_eq!(at("/var//lib/data/sub/x/y"), "../../../sub/x/y");
    assert_eq!(at("../../../../var/lib/data/x"), "../../../var-lib-data/x");
    assert_eq!(at("/var/lib/../lib/data/x"), "../../../var-lib-data/x");
    assert_eq!(at("/var/lib/database"), "../../var/lib/database");
    assert_eq!(at("/var/lib"), "../../var/lib");
    // A relative target does so too, whether anything is there in this mount or not.
    assert_eq!(at("../../var/lib/data/x"), "../../../var-lib-data/x");
    assert_eq!(at("../../etc/../var/lib/data/x"), "../../../var-lib-data/x");
    assert_eq!(at("c"), "../../../a-b-c");
    assert_eq!(at("./c//x/"), "../../../a-b-c/x/");
    assert_eq!(at("../b/c"), "../../../a-b-c");
    assert_eq!(at("cc"), "cc");
    assert_eq!(in_dir("a", "b/c/x"), "../../a-b-c/x");
    assert_eq!(in_dir("var", "lib/data/sub/x"), "../../sub/x");
    assert_eq!(in_dir("etc", "a/b/c"), "a/b/c");
    assert_eq!(in_dir("etc/a/b", "c"), "c");
    // What no path of the container leads to stays by itself.
    assert_eq!(in_dir("var/lib/data", "hidden"), "hidden");
    // Climbing after a link that is shown as leading elsewhere, the kernel would leave the session.
    assert_eq!(at("near/../../../etc"), "../../etc");
}

#[test]
fn a_target_that_is_a_single_file_leads_to_it() {
    let destinations = [
        Destination::new(0, b"/", b"rootfs", false),
        Destination::new(1, b"/data", b"data", false),
        Destination::new(2, b"/etc/conf", b"etc-conf", true),
        Destination::new(3, b"/etc/dir", b"etc-dir", true),
        Destination::new(4, b"/etc/unmade", b"etc-unmade", true),
        Destination::new(5, b"/data/conf", b"data-conf", true),
    ];
    let root = Builder::new()
        .file("etc/conf", b"")
        .dir("etc/dir")
        .symlink("etc/near", "conf")
        .symlink("link", "/etc/conf")
        .symlink("to-dir", "/etc/dir")
        .symlink("to-unmade", "/etc/unmade")
        .symlink("deep", "/data/conf");
    let data = Builder::new().file("conf", b"").symlink("d/link", "/etc/conf").symlink("near", "conf");
    let (root, data) = (root.finish(), data.finish());
    let mounts = |own| Surroundings {
        tree: [root.tree(), data.tree()][own],
        own,
        root: root.tree(),
        destinations: &destinations,
    };
    let at = |own, path: &str| answer(&mounts(own), path).unwrap();
    assert_eq!(at(0, "link"), "../etc-conf/conf");
    assert_eq!(at(0, "etc/near"), "../../etc-conf/conf");
    assert_eq!(at(0, "to-dir"), "../etc-dir");
    assert_eq!(at(1, "d/link"), "../../etc-conf/conf");
    assert_eq!(at(1, "near"), "../data-conf/conf");
    // Nobody knows what is there until it is read.
    assert_eq!(at(0, "to-unmade"), "../etc-unmade");
    assert_eq!(at(0, "deep"), "../data-conf");
}

#[test]
fn a_target_that_leaves_a_volume_is_a_path_of_the_container() {
    let destinations =
        [Destination::new(0, b"/", b"rootfs", false), Destination::new(1, b"/srv/data", b"srv-data", false)];
    let at = |target: &str| {
        let (root, volume) =
            (Builder::new().finish(), Builder::new().dir("x").symlink("d/link", target).finish());
        let mounts =
            Surroundings { tree: volume.tree(), own: 1, root: root.tree(), destinations: &destinations };
        answer(&mounts, "d/link").unwrap()
    };
    assert_eq!(at("/srv/data/x"), "../x");
    assert_eq!(at("/srv/data"), "..");
    assert_eq!(at("/etc/passwd"), "../../rootfs/etc/passwd");
    assert_eq!(at("/etc/../srv/data/x"), "../x");
    assert_eq!(at("../../etc/passwd"), "../../rootfs/srv/etc/passwd");
    assert_eq!(at("../../../etc/./passwd"), "../../rootfs/etc/./passwd");
    assert_eq!(at("../../../../../etc/passwd"), "../../rootfs/etc/passwd");
    assert_eq!(at("../../data/x"), "../x");
    assert_eq!(at("../../../etc/../../.."), "../../rootfs");
    assert_eq!(at("../x"), "../x");
}

#[test]
fn a_target_too_long_to_be_made_relative_is_an_error() {
    let at = |len: usize| {
        let target = format!("/{}", "x/".repeat(len / 2));
        let filesystem = Builder::new().dir("d").symlink("d/link", &target).finish();
        let tree = filesystem.tree();
        let mounts = Surroundings { tree, own: 0, root: tree, destinations: &[] };
        answer(&mounts, "d/link").map(|target| target.len())
    };
    assert_eq!(at(4092).unwrap(), 4095);
    assert!(matches!(at(4094), Err(SymlinkError::TooLong(_))));
}

#[test]
fn a_target_built_to_cost_time_is_given_up_on_safely() {
    let mut tree = Builder::new().dir("d");
    for i in 0..45 {
        tree = tree.symlink(&format!("d/l{i}"), format!("l{}/x/..", i + 1));
    }
    assert_eq!(shown(tree.symlink("chain", "d/l0/../../etc"), "chain", &[]), "d/l40/x/.");
    let long = "d/../".repeat(800) + "../../etc";
    assert_eq!(shown(Builder::new().dir("d").symlink("long", &long), "long", &[]), "etc");
    let tree = Builder::new().dir("d").symlink("self", "self/..").symlink("l", "self/../../../etc");
    assert_eq!(shown(tree, "l", &[]), "self/.");
}
