//! Real registries: what skopeo puts there is what imagefs shows.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, Manifest, Sandbox, succeed, wait_until};

/// `user` with the password `secret`, as htpasswd(1) writes it with `-B`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry that runs until it is dropped.
struct Real {
    process: Child,
    port: u16,
}

impl Real {
    /// Starts docker-registry, or what `IMAGEFS_TEST_REGISTRY` names and is started alike. `http` and `more` are lines of its
    /// configuration.
    fn start(dir: &Path, http: &str, more: &str) -> Real {
        let program = std::env::var("IMAGEFS_TEST_REGISTRY").unwrap_or_else(|_| "docker-registry".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        fs::create_dir_all(dir).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n{http}{more}",
            dir.join("store").display()
        );
        fs::write(dir.join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(&program);
        command.args(["serve".as_ref(), dir.join("config.yml").as_os_str()]);
        command.env("OTEL_TRACES_EXPORTER", "none").stdin(Stdio::null());
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let process = process.unwrap_or_else(|e| panic!("{program}: {e}: run this test with scripts/test"));
        let registry = Real { process, port };
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(wait_until(listens), "{}", fs::read_to_string(dir.join("log")).unwrap());
        registry
    }

    fn image(&self, name: &str) -> String {
        format!("docker://127.0.0.1:{}/{name}", self.port)
    }

    /// Copies an image there.
    fn push(&self, from: &str, name: &str, options: &[&str]) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]).args(options);
        succeed(skopeo.arg(from).arg(self.image(name)));
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The test image with every kind of file, saved as an OCI layout.
#[track_caller]
fn torture(sandbox: &Sandbox) -> String {
    let layout = format!("oci:{}:t", sandbox.path("layout").display());
    let daemon = Daemon::docker();
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet", "--src-daemon-host", daemon.host()]);
    succeed(skopeo.args(["docker-daemon:imagefs-test/torture:latest", &layout]));
    layout
}

#[test]
fn what_is_pushed_in_any_form_is_shown_as_it_was() {
    let sandbox = Sandbox::new();
    torture(&sandbox);
    let daemon = Daemon::docker();
    let mut registries = Vec::new();
    let stored = "docker-daemon:imagefs-test/torture:latest";
    for (form, options, media_type) in [
        ("gzip", &["--format", "oci"][..], "application/vnd.oci.image.layer.v1.tar+gzip"),
        (
            "zstd",
            &["--format", "oci", "--dest-compress-format", "zstd"],
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
        ("docker", &["--format", "v2s2"], "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ] {
        // Each has its own: skopeo takes what it knows a registry to have already, however that is compressed.
        let registry = Real::start(&sandbox.path(&format!("registry-{form}")), "", "");
        let name = format!("{form}:1");
        registry.push(stored, &name, &[options, &["--src-daemon-host", daemon.host()]].concat());
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", "--raw", "--tls-verify=false", &registry.image(&name)]);
        let manifest = String::from_utf8(succeed(&mut skopeo)).unwrap();
        assert!(manifest.contains(media_type), "{form}: {manifest}");
        registries.push((form, registry));
    }
    succeed(sandbox.command("umoci").args(["unpack", "--image", "layout:t", "bundle"]));
    // An extended attribute whose value is empty is lost there.
    let expected = Manifest::read(&sandbox.path("bundle/rootfs")).without_attribute("xattrs/empty", "xattrs");
    for (form, registry) in &registries {
        let image = registry.image(&format!("{form}:1"));
        let mountpoint = sandbox.directory(form);
        let cache = sandbox.path(&format!("tmp/{form}"));
        sandbox
            .run(
                sandbox
                    .imagefs(["mount", "-o", "flat,symlinks=raw", &image])
                    .arg(&mountpoint)
                    .env("IMAGEFS_CACHE_DIR", &cache),
            )
            .success();
        expected.assert_same(&Manifest::read(&mountpoint));
        sandbox.unmount(&mountpoint);
    }
    let [(_, gzip), (_, zstd), _] = &registries[..] else { panic!() };
    sandbox.run(&mut sandbox.imagefs(["diff", &gzip.image("gzip:1"), &zstd.image("zstd:1")])).success();
}

#[test]
fn a_registry_with_a_certificate_of_its_own_and_a_password_lets_in_who_has_both() {
    let sandbox = Sandbox::new();
    let layout = torture(&sandbox);
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=test-ca
        openssl req -newkey rsa:2048 -nodes -keyout s.key -out s.csr -subj /CN=registry
        printf 'subjectAltName=DNS:registry.test,IP:127.0.0.1\n' >ext
        openssl x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out s.crt";
    succeed(sandbox.command("bash").args(["-euc", script]));
    fs::write(sandbox.path("htpasswd"), HTPASSWD).unwrap();
    let path = |name: &str| sandbox.path(name).display().to_string();
    let tls = format!("  tls: {{certificate: {}, key: {}}}\n", path("s.crt"), path("s.key"));
    let auth = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", path("htpasswd"));
    let registry = Real::start(&sandbox.path("registry"), &tls, &auth);
    registry.push(&layout, "t:1", &["--dest-creds", "user:secret"]);

    // A name that is not this machine's, as far as the program can see: there it would need no certificate.
    let host = format!("registry.test:{}", registry.port);
    fs::write(sandbox.path("hosts"), "127.0.0.1 registry.test\n").unwrap();
    fs::create_dir_all(sandbox.path("home/.docker")).unwrap();
    let config = format!(r#"{{"auths": {{"{host}": {{"auth": "dXNlcjpzZWNyZXQ="}}}}}}"#);
    fs::write(sandbox.path("home/.docker/config.json"), config).unwrap();
    let certificates = sandbox.path(&format!("containers/certs.d/{host}"));
    fs::create_dir_all(&certificates).unwrap();
    fs::copy(sandbox.path("ca.crt"), certificates.join("ca.crt")).unwrap();
    fs::create_dir(sandbox.path("empty")).unwrap();
    let listed = |containers: &str, environment: &[(&str, &str)], options: &[&str]| {
        let script = r#"mount --bind hosts /etc/hosts; mount --bind "$0" /etc/containers; exec "$@""#;
        let mut command = sandbox.command("unshare");
        command.args(["--mount", "bash", "-euc", script, containers, env!("CARGO_BIN_EXE_imagefs"), "ls"]);
        command.args(options).args([&format!("docker://{host}/t:1"), "/etc"]);
        command.env("IMAGEFS_CACHE_DIR", tempfile::tempdir_in(sandbox.path("tmp")).unwrap().keep());
        sandbox.run(command.envs(environment.iter().copied()))
    };
    let outcome = listed("empty", &[], &[]);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("no TLS connection to {host}: ")), "{outcome:?}");
    assert!(outcome.stderr.contains("SSL_CERT_FILE"), "{outcome:?}");
    listed("empty", &[("SSL_CERT_FILE", &path("ca.crt"))], &[]).success();
    listed("containers", &[], &[]).success();
    listed("empty", &[], &["--insecure-registry", &host]).success();
    let outcome = listed("containers", &[("HOME", "/")], &[]);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.stderr.contains("does not let you read t: "), "{outcome:?}");
}

#[test]
fn a_cache_before_a_registry_is_read_like_the_registry() {
    let sandbox = Sandbox::new();
    let layout = torture(&sandbox);
    let registry = Real::start(&sandbox.path("registry"), "", "");
    registry.push(&layout, "t:1", &[]);
    let proxy = format!("proxy: {{remoteurl: \"http://127.0.0.1:{}\"}}\n", registry.port);
    let cache = Real::start(&sandbox.path("cache-before"), "", &proxy);
    // Once while it fetches by itself, and once when it has it.
    for new in ["one", "two"] {
        let mut command = sandbox.imagefs(["ls", &cache.image("t:1"), "/"]);
        sandbox.run(command.env("IMAGEFS_CACHE_DIR", sandbox.path("tmp").join(new))).success();
    }
}
