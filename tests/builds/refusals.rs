//! What cannot be built is refused with its reason, and nothing is mounted.

use std::fs;

use super::{Build, Server};
use crate::support::{Daemon, Sandbox};

#[test]
#[ignore = "needs IMAGEFS_TEST_BUILDKIT"]
fn a_dockerfile_that_is_none_is_refused_with_its_line() {
    for server in &Server::all() {
        let sandbox = Sandbox::new();
        for (name, lines, code, said) in [
            ("syntax", "RUNN x\n", 6, "line 3"),
            ("stage", "COPY --from=nobody /x /x\n", 4, "nobody"),
            ("frontend", "", 4, "localhost:1/no/frontend"),
        ] {
            let build = Build::new(&sandbox, server, name, lines);
            if name == "frontend" {
                fs::write(
                    build.context.join("Dockerfile"),
                    "# syntax=localhost:1/no/frontend\nFROM scratch\n",
                )
                .unwrap();
            }
            let outcome = build.run(&["-q"]);
            let known = outcome.code == Some(code) || name != "syntax" && outcome.code == Some(6);
            assert!(known && outcome.stderr.contains(said), "{} {name}: {outcome:#?}", server.address);
            assert_eq!(sandbox.mounts(), [""; 0].map(std::path::PathBuf::from));
        }
        sandbox.assert_nothing_left();
    }
}

#[test]
fn who_has_no_buildkit_says_so() {
    let sandbox = Sandbox::new();
    let context = sandbox.directory("context");
    let mountpoint = sandbox.directory("mounted");
    let run = |options: &[&str]| {
        sandbox.run(sandbox.imagefs(["build"]).args(options).arg(&context).arg(&mountpoint))
    };
    let missing = run(&["--host", "unix:///no/such.sock"]);
    assert_eq!(missing.code, Some(3), "{missing:#?}");
    assert!(missing.stderr.contains("Dockerfile"), "{}", missing.stderr);
    fs::write(context.join("Dockerfile"), "FROM scratch\n").unwrap();
    let nobody = run(&["--buildkit", "unix:///no/such.sock"]);
    assert_eq!(nobody.code, Some(4), "{nobody:#?}");
    let podman = run(&["--host", Daemon::podman().host()]);
    assert_eq!(podman.code, Some(4), "{podman:#?}");
    assert!(podman.stderr.contains("has no BuildKit"), "{}", podman.stderr);
    let secret = run(&["--secret", "src=x"]);
    assert_eq!(secret.code, Some(2), "{secret:#?}");
    sandbox.assert_nothing_left();
}
