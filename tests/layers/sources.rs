//! Images in archives and layouts, from what the user names to the merged tree, with the cache in between.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use imagefs::cache::{Cache, Kind};
use imagefs::progress::Progress;
use imagefs::source::{self, Context, Source, SourceError};

use super::build::Layer;
use crate::support::{Daemon, Manifest, succeed};

/// A place for images, and a cache.
pub struct Place {
    directory: tempfile::TempDir,
    cache: Cache,
}

/// What the user says besides the source.
#[derive(Clone, Copy, Default)]
pub struct Ask<'a> {
    pub host: Option<&'a str>,
    pub platform: Option<&'a str>,
    pub max_size: Option<u64>,
    pub exact: bool,
}

impl Place {
    pub fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(directory.path().join("cache"))).unwrap();
        Place { directory, cache }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    #[track_caller]
    pub fn shell(&self, script: &str) {
        let script = format!("skopeo() {{ command skopeo --insecure-policy copy -q \"$@\"; }}\n{script}");
        succeed(
            Command::new("bash").args(["-euo", "pipefail", "-c", &script]).current_dir(self.directory.path()),
        );
    }

    /// Makes the layout `l` with an image of these layers.
    pub fn layout(&self, image: &str, layers: impl IntoIterator<Item = Layer>) {
        super::image(self.directory.path(), image, layers);
    }

    pub fn open_with(&self, spelled: &str, ask: Ask<'_>) -> (Result<Source, SourceError>, u64) {
        let progress = Arc::new(Progress::new());
        let platform = ask.platform.map(|text| text.parse().unwrap());
        let context = Context {
            host: ask.host,
            platform: platform.as_ref(),
            max_size: ask.max_size,
            insecure_registries: &[],
            exact: ask.exact,
            ..Context::new(&self.cache, &progress)
        };
        let spelled = spelled.replace('%', self.directory.path().to_str().unwrap());
        let source = source::open(spelled.as_ref(), &context).and_then(|mut source| {
            source.wait()?;
            Ok(source)
        });
        (source, progress.bytes())
    }

    #[track_caller]
    fn open(&self, spelled: &str) -> Source {
        self.open_with(spelled, Ask::default()).0.unwrap_or_else(|e| panic!("{spelled}: {e}"))
    }

    fn error(&self, spelled: &str) -> SourceError {
        match self.open_with(spelled, Ask::default()).0 {
            Ok(_) => panic!("{spelled} opens"),
            Err(error) => error,
        }
    }

    pub fn manifest(&self, spelled: &str) -> Manifest {
        Manifest::of(&self.open(spelled).mounts[0].filesystem)
    }

    /// What umoci makes of an image of the layout `l`.
    pub fn unpacked(&self, image: &str) -> Manifest {
        self.shell(&format!("umoci unpack --image l:{image} unpacked-{image}"));
        Manifest::read(&self.path(&format!("unpacked-{image}/rootfs"))).without_attribute(".", "mtime")
    }

    fn entries(&self, kind: Kind) -> usize {
        self.cache
            .ls()
            .unwrap()
            .iter()
            .filter(|e| e.meta.as_ref().is_some_and(|meta| meta.content.kind == kind))
            .count()
    }
}

fn base() -> Layer {
    Layer::new(0)
        .dir("./")
        .dir("etc/")
        .file("etc/passwd", "root")
        .file("etc/secret", "1234")
        .link("again", "etc/passwd")
}

fn top() -> Layer {
    Layer::new(1).without("etc/secret").file("etc/motd", "hello").link("third", "etc/passwd")
}

#[test]
fn every_form_of_an_image_is_the_same_tree() {
    let place = Place::new();
    place.layout("a", [base(), top()]);
    place.shell(
        "skopeo oci:l:a docker-archive:docker.tar:name:tag
         skopeo oci:l:a oci-archive:oci.tar:name:tag
         skopeo --dest-compress --dest-compress-format zstd oci:l:a oci:zstd:name:tag
         skopeo --dest-compress --dest-compress-format zstd:chunked oci:l:a oci:chunked:name:tag
         gzip -k docker.tar; xz -k oci.tar",
    );
    let expected = place.unpacked("a");
    assert_eq!(expected.get("etc/motd", "type"), Some("file"));
    for spelled in [
        "%/l",
        "oci:%/l",
        "oci:%/l:a",
        "%/zstd",
        "oci:%/zstd:name:tag",
        "oci:%/chunked",
        "%/docker.tar",
        "docker-archive:%/docker.tar",
        "docker-archive:%/docker.tar:name:tag",
        "docker-archive:%/docker.tar:@0",
        "%/docker.tar:name:tag",
        "%/oci.tar",
        "oci-archive:%/oci.tar:name:tag",
        "%/docker.tar.gz",
        "oci-archive:%/oci.tar.xz",
    ] {
        expected.assert_same(&place.manifest(spelled));
    }
    assert_eq!(place.entries(Kind::Layer), 2, "every form shares the same layers");
}

#[test]
fn a_second_image_on_the_same_base_costs_its_own_layers_alone() {
    let place = Place::new();
    let big = || base().file("big", &"x".repeat(1 << 20));
    place.layout("a", [big()]);
    place.layout("b", [big(), top()]);
    let read = |spelled| {
        let (source, bytes) = place.open_with(spelled, Ask::default());
        source.unwrap();
        bytes
    };
    assert!(read("oci:%/l:a") > 1 << 20);
    assert!(read("oci:%/l:b") < 1 << 16);
    assert_eq!(read("oci:%/l:b"), 0);
    assert_eq!((place.entries(Kind::Layer), place.entries(Kind::Image)), (2, 2));
    place.unpacked("b").assert_same(&place.manifest("oci:%/l:b"));
}

#[test]
fn what_is_known_of_an_image_comes_with_it() {
    let place = Place::new();
    place.layout("a", [base(), top()]);
    place.shell("umoci config --image l:a --config.cmd sh --architecture arm64 --os linux");
    for _cold_then_warm in 0..2 {
        let source = place.open("oci:%/l");
        assert_eq!(source.kind, Kind::Image);
        assert_eq!(source.platform.unwrap().to_string(), "linux/arm64");
        assert_eq!(source.details.config.unwrap().cmd, ["sh"]);
        assert_eq!(source.details.names, ["a"]);
        assert!(source.details.created.is_some());
        let makers: Vec<_> = source.details.layers.iter().map(|l| l.created_by.as_deref()).collect();
        assert_eq!(makers, [Some("step 0"), Some("step 1")]);
    }
}

#[test]
fn an_image_that_is_not_there_is_an_error_that_says_what_is() {
    let place = Place::new();
    place.layout("a", [base()]);
    place.layout("b", [base(), top()]);
    let error = place.error("%/l");
    assert!(error.to_string().contains("holds several images: @0 a, @1 b"), "{error}");
    assert!(error.hint().unwrap().contains(":NAME"));
    let error = place.error("oci:%/l:c");
    assert!(error.to_string().contains("has no image \"c\"; it holds @0 a, @1 b"), "{error}");
    let error =
        place.open_with("%/l:a", Ask { platform: Some("linux/s390x"), ..Ask::default() }).0.err().unwrap();
    assert!(error.to_string().contains("there is no image for linux/s390x"), "{error}");
    assert!(place.cache.ls().unwrap().is_empty());
}

#[test]
fn a_layer_that_is_not_what_it_should_be_leaves_nothing() {
    let place = Place::new();
    place.layout("a", [base(), top()]);
    place.shell("skopeo --dest-decompress oci:l:a dir:plain; skopeo dir:plain docker-archive:good.tar");
    // The same length, other bytes: a header's checksum goes wrong, and so does the digest, which is the reason.
    place.shell("sed 's/etc.motd/etc-MOTD/' good.tar >bad.tar; ! cmp -s good.tar bad.tar");
    let error = place.error("%/bad.tar");
    assert!(matches!(error, SourceError::Oci(_)), "{error}");
    assert!(error.to_string().contains("where the configuration says"), "{error}");
    assert_eq!(place.entries(Kind::Image), 0);
    assert_eq!(place.entries(Kind::Layer), 1, "the sound layer stays");
    place.unpacked("a").assert_same(&place.manifest("%/good.tar"));
}

#[test]
fn what_is_not_shown_as_a_layer_has_it_is_noted() {
    let place = Place::new();
    place.layout("a", [base(), Layer::new(1).link("x", "y").link("y", "x")]);
    for _ in 0..2 {
        let notes = place.open_with("%/l", Ask::default()).0.unwrap().notes;
        let told = "not all is shown as the archive has it: 2 × hard links to themselves, left out";
        assert!(notes.len() == 1 && notes[0].starts_with("layer ") && notes[0].ends_with(told), "{notes:?}");
    }
}

#[test]
fn a_layer_beyond_the_limit_is_refused() {
    let place = Place::new();
    place.layout("a", [base().file("big", &"x".repeat(1 << 20))]);
    let error = place.open_with("%/l", Ask { max_size: Some(1 << 20), ..Ask::default() }).0.err().unwrap();
    assert!(error.to_string().contains("unpacks to more than 1048576 bytes"), "{error}");
    assert_eq!(error.hint().unwrap(), "--max-size sets the limit");
    assert!(place.cache.ls().unwrap().is_empty());
}

#[test]
fn an_archive_that_unpacks_to_more_than_it_may_is_not_taken_for_something_else() {
    let place = Place::new();
    place.layout("a", [base().file("big", &"x".repeat(1 << 20))]);
    place.shell("skopeo oci:l:a docker-archive:docker.tar; gzip docker.tar");
    let error = place.open_with("%/docker.tar.gz", Ask { max_size: Some(1 << 20), ..Ask::default() }).0;
    assert!(error.err().unwrap().to_string().contains("unpacks to more than 1048576 bytes"));
    assert!(place.cache.ls().unwrap().is_empty());
}

#[test]
fn an_archive_is_unpacked_once_whether_it_is_said_what_it_is_or_not() {
    let bytes = ["docker-archive:%/docker.tar.gz", "%/docker.tar.gz"].map(|spelled| {
        let place = Place::new();
        place.layout("a", [base(), top()]);
        place.shell("skopeo oci:l:a docker-archive:docker.tar; gzip docker.tar");
        let (source, bytes) = place.open_with(spelled, Ask::default());
        source.unwrap();
        bytes
    });
    assert_eq!(bytes[0], bytes[1]);
}

#[test]
fn what_a_compressed_archive_holds_is_remembered_until_it_is_another_file() {
    let place = Place::new();
    place.layout("a", [base()]);
    place.layout("b", [base(), top()]);
    place.shell(
        "skopeo oci:l:a oci-archive:a.tar:a; skopeo oci:l:b oci-archive:b.tar:b
         mkdir both; umoci config --image l:a --architecture arm64; cp -r l both; tar c -C both/l . | gzip >both.tar.gz
         gzip -k a.tar b.tar; cp a.tar.gz image.tar.gz",
    );
    let read = |spelled: &str, platform| {
        let (source, bytes) = place.open_with(spelled, Ask { platform, ..Ask::default() });
        (source.unwrap().details.layers.len(), bytes > 0)
    };
    for spelled in ["%/image.tar.gz", "oci-archive:%/image.tar.gz", "%/image.tar.gz:a", "%/image.tar.gz:@0"] {
        assert_eq!(read(spelled, None), (1, true), "{spelled}");
        assert_eq!(read(spelled, None), (1, false), "{spelled}");
    }
    // Which image of several is part of what is remembered.
    for again in [true, false] {
        assert_eq!(read("%/both.tar.gz:a", None), (1, again));
        assert_eq!(read("%/both.tar.gz:b", None), (2, again));
        assert_eq!(read("%/both.tar.gz", Some("linux/arm64")), (1, again));
        assert_eq!(read("%/both.tar.gz", Some("linux/amd64")), (2, again));
    }
    // The same image is called otherwise in another archive.
    place.shell("skopeo oci-archive:a.tar:a oci-archive:z.tar:z; gzip z.tar");
    for _again in 0..2 {
        assert_eq!(place.open("%/z.tar.gz").details.names, ["z"]);
        assert_eq!(place.open("%/image.tar.gz").details.names, ["a"]);
    }
    // Another file of that name, and other bytes in the same file, though it looks as old as before.
    place.shell("cp b.tar.gz new; touch -r image.tar.gz new; mv new image.tar.gz");
    assert_eq!(read("%/image.tar.gz", None), (2, true));
    assert_eq!(read("%/image.tar.gz", None), (2, false));
    place.shell("touch -r image.tar.gz old; cat a.tar.gz >image.tar.gz; touch -r old image.tar.gz");
    assert_eq!(read("%/image.tar.gz", None), (1, true));
    // It goes with what is in the cache.
    place.cache.prune(0).unwrap();
    assert_eq!(read("%/image.tar.gz", None), (1, true));
    assert_eq!(read("%/image.tar.gz", None), (1, false));
}

#[test]
fn a_tar_of_a_root_filesystem_is_one_also_without_a_transport() {
    let place = Place::new();
    for (name, layer) in
        [("etc.tar", base()), ("other.tar", Layer::new(0).file("x/y", "z").file("manifest.json", "[]"))]
    {
        std::fs::write(place.path(name), layer.tar()).unwrap();
        for _cold_then_warm in 0..2 {
            assert_eq!(place.open(&format!("%/{name}")).kind, Kind::Tar, "{name}");
        }
    }
    let error = place.error("%/etc.tar:tag");
    assert!(error.to_string().contains("holds no container image"), "{error}");
    place.shell("mkdir empty");
    assert!(place.error("%/empty").to_string().contains("holds no container image"));
}

#[test]
fn a_daemons_image_is_exactly_its_layers() {
    for daemon in Daemon::both() {
        let place = Place::new();
        // overlay2 cannot take a layer that links to a file of another.
        place
            .layout("a", [base(), Layer::new(1).without("etc/secret").dir("etc/").file("etc/motd", "hello")]);
        place.shell("skopeo oci:l:a docker-archive:image.tar:imagefs-test-exact:1");
        daemon.run(["load", "--input", place.path("image.tar").to_str().unwrap()]);
        let ask = Ask { host: Some(daemon.host()), exact: true, ..Ask::default() };
        let (source, _) = place.open_with("imagefs-test-exact:1", ask);
        let source = source.unwrap();
        place.unpacked("a").assert_same(&Manifest::of(&source.mounts[0].filesystem));
        assert_eq!(source.details.layers.len(), 2);
        let names = source.details.names.join(" ");
        assert!(names.contains("imagefs-test-exact:1"), "{}: {names}", daemon.name);
        // By its id it is found without asking anybody, and an archive of it has nothing to add.
        let nobody = Ask { host: Some("unix:///nonexistent"), exact: true, ..Ask::default() };
        place.open_with(&daemon.image_id("imagefs-test-exact:1"), nobody).0.unwrap();
        assert_eq!(place.open_with("%/image.tar", Ask::default()).1, 0);
        daemon.run(["image", "rm", "imagefs-test-exact:1"]);
    }
}

#[test]
fn a_daemons_image_has_the_names_that_it_has_now() {
    for daemon in Daemon::both() {
        let place = Place::new();
        place.layout("a", [base()]);
        place.shell("skopeo oci:l:a docker-archive:image.tar:imagefs-test-names:1");
        daemon.run(["load", "--input", place.path("image.tar").to_str().unwrap()]);
        place.open("%/image.tar");
        for (exact, tag) in [(true, "imagefs-test-names:2"), (false, "imagefs-test-names:3")] {
            let names = |spelled| {
                let ask = Ask { host: Some(daemon.host()), exact, ..Ask::default() };
                place.open_with(spelled, ask).0.unwrap().details.names.join(" ")
            };
            assert!(names("imagefs-test-names:1").contains("imagefs-test-names:1"));
            daemon.run(["tag", "imagefs-test-names:1", tag]);
            let names = names(tag);
            assert!(names.contains(tag), "{}: {names}", daemon.name);
        }
        for tag in 1..=3 {
            daemon.run(["image", "rm", &format!("imagefs-test-names:{tag}")]);
        }
    }
}
