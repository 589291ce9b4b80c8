//! What a mount shows of the layers of an image, and how a deleted file is found again.

use std::fs;
use std::path::Path;

use rustix::fs::{lgetxattr, llistxattr};

use super::build::Layer;
use super::image;
use crate::support::{Daemon, Sandbox, succeed};

/// A sandbox with the image `l:a` mounted at `mnt`.
struct Mounted(Sandbox);

impl Mounted {
    #[track_caller]
    fn new(options: &str) -> Mounted {
        let sandbox = Sandbox::new();
        sandbox.directory("mnt");
        image(
            &sandbox.path(""),
            "a",
            [
                Layer::new(0)
                    .dir("./")
                    .dir("etc/")
                    .file("etc/passwd", "root")
                    .file("etc/secret", "1234")
                    .symlink("etc/abs", "/etc/passwd"),
                Layer::new(1).without("etc/secret").file("etc/motd", "hello").opaque("etc"),
            ],
        );
        let arguments = ["mount", "-o", options, "oci:l:a", "mnt"];
        sandbox.run(&mut sandbox.imagefs(arguments)).success();
        Mounted(sandbox)
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.path("mnt").join(dir)).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path("mnt").join(path)).unwrap()
    }

    fn xattr(&self, path: &str, name: &str) -> Option<String> {
        let mut value = vec![0; 65536];
        let length = lgetxattr(self.0.path("mnt").join(path), name, &mut value[..]).ok()?;
        Some(String::from_utf8(value[..length].to_vec()).unwrap())
    }

    fn listed(&self, path: &str) -> String {
        let mut names = vec![0; 65536];
        let length = llistxattr(self.0.path("mnt").join(path), &mut names[..]).unwrap();
        String::from_utf8(names[..length].to_vec()).unwrap().replace('\0', " ")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.0.run(&mut self.0.imagefs(["umount", "mnt"]));
    }
}

#[test]
fn each_layer_is_a_directory_of_what_it_holds() {
    let mounted = Mounted::new("layers");
    assert_eq!(mounted.names(""), [".imagefs.json", "layers", "rootfs"]);
    assert_eq!(mounted.names("rootfs/etc"), ["motd"]);
    let layers = mounted.names("layers");
    let description: serde_json::Value = serde_json::from_str(&mounted.read(".imagefs.json")).unwrap();
    for (i, layer) in layers.iter().enumerate() {
        let diff_id = description["layers"][i]["diff_id"].as_str().unwrap();
        assert_eq!(*layer, format!("{i:02}-{}", &diff_id["sha256:".len()..][..12]));
    }
    let [base, top] = [0, 1].map(|i| format!("layers/{}", layers[i]));
    assert_eq!(mounted.names(&format!("{base}/etc")), ["abs", "passwd", "secret"]);
    assert_eq!(mounted.read(&format!("{base}/etc/secret")), "1234", "what is deleted can be read");
    assert_eq!(mounted.names(&format!("{top}/etc")), [".wh..wh..opq", ".wh.secret", "motd"]);
    for (name, kind) in [(".wh.secret", "whiteout"), (".wh..wh..opq", "opaque")] {
        let path = format!("{top}/etc/{name}");
        assert_eq!(mounted.read(&path), "");
        assert_eq!(mounted.xattr(&path, "user.imagefs.whiteout").unwrap(), kind);
    }
    assert_eq!(mounted.xattr(&format!("{top}/etc/motd"), "user.imagefs.whiteout"), None);
    let link = fs::read_link(mounted.0.path("mnt").join(&base).join("etc/abs")).unwrap();
    assert_eq!(link, Path::new("../etc/passwd"), "links stay in their layer");

    // The inode numbers of the ways up agree with those of the ways down.
    let ino = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(join(&mounted, path)).unwrap().ino()
    };
    assert_eq!(ino(&format!("{base}/..")), ino("layers"));
    assert_eq!(ino("layers/.."), ino(""));
}

fn join(mounted: &Mounted, path: &str) -> std::path::PathBuf {
    mounted.0.path("mnt").join(path)
}

#[test]
fn every_file_tells_by_name_which_layer_it_comes_from() {
    let mounted = Mounted::new("layers");
    let layer = |path: &str| mounted.xattr(path, "user.imagefs.layer").unwrap();
    let id = |number: usize| mounted.names("layers")[number][3..].to_owned();
    assert!(layer("rootfs/etc").starts_with(&format!("0 sha256:{}", id(0))), "{}", layer("rootfs/etc"));
    assert!(layer("rootfs/etc/motd").starts_with(&format!("1 sha256:{}", id(1))));
    assert_eq!(mounted.xattr("rootfs/etc/motd", "user.imagefs.created_by").unwrap(), "step 1");
    assert_eq!(layer(&format!("layers/00-{}/etc/secret", id(0))), layer("rootfs/etc"));
    // The kernel keeps user. attributes of a symlink to itself.
    let link = format!("layers/00-{}/etc/abs", id(0));
    assert_eq!(mounted.xattr(&link, "user.imagefs.layer"), None);
    assert_eq!(mounted.xattr(&link, "system.imagefs.layer").unwrap(), layer("rootfs/etc"));
    assert_eq!(mounted.listed("rootfs/etc/motd"), "", "copies stay exact");
}

#[test]
fn the_layer_is_listed_where_that_is_asked_for() {
    let mounted = Mounted::new("provenance");
    assert_eq!(mounted.names(""), [".imagefs.json", "rootfs"]);
    assert_eq!(mounted.listed("rootfs/etc/motd"), "user.imagefs.layer user.imagefs.created_by ");
}

#[test]
fn what_has_no_layers_shows_none() {
    let sandbox = Sandbox::new();
    sandbox.directory("mnt");
    fs::write(sandbox.path("root.tar"), Layer::new(0).file("etc/f", "").tar()).unwrap();
    let outcome = sandbox.run(&mut sandbox.imagefs(["mount", "-o", "layers", "./root.tar", "mnt"]));
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("root.tar\" are not known\nhint: name an image"), "{}", outcome.stderr);
    sandbox.assert_nothing_left();
}

#[test]
fn the_layers_of_a_daemons_image_need_no_other_option() {
    const SMALL: &str = "imagefs-test/small";
    for daemon in Daemon::both() {
        let sandbox = Sandbox::new();
        for (options, names) in [("layers", "layers rootfs"), ("provenance", "rootfs")] {
            let mountpoint = sandbox.mount(options, ["--host", daemon.host(), "-o", options, SMALL]);
            let ls = succeed(sandbox.command("ls").arg(&mountpoint));
            assert_eq!(
                String::from_utf8(ls).unwrap().split_whitespace().collect::<Vec<_>>().join(" "),
                names
            );
            let file = mountpoint.join("rootfs/etc/passwd");
            let layer = succeed(sandbox.command("getfattr").args(["-n", "user.imagefs.layer"]).arg(&file));
            assert!(String::from_utf8(layer).unwrap().contains("=\"0 sha256:"), "{}", daemon.name);
            sandbox.unmount(&mountpoint);
        }
    }
}

#[test]
fn a_container_leads_to_the_image_that_has_its_layers() {
    let (sandbox, daemon) = (Sandbox::new(), Daemon::docker());
    let container = daemon.create("imagefs-test/small");
    sandbox.directory("mnt");
    let source = format!("container:{}", container.id);
    for arguments in [&["mount", "-o", "layers", &source, "mnt"][..], &["history", &source]] {
        let outcome = sandbox.run(sandbox.imagefs(arguments).env("DOCKER_HOST", daemon.host()));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        let hint = format!(
            "hint: those of the image that it was made of are: name {}\n",
            daemon.image_id("imagefs-test/small")
        );
        assert!(outcome.stderr.ends_with(&hint), "{}", outcome.stderr);
    }
    sandbox.assert_nothing_left();
}
