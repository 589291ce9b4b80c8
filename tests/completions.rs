//! What bash, zsh and fish offer, each run with the script that the program prints for it.

use std::os::unix::net::UnixListener;

use crate::support::{Daemon, Sandbox, succeed};

/// A sandbox with the program on its path, and a tar that has been looked into.
fn place() -> Sandbox {
    let sandbox = Sandbox::new();
    let script = r#"
        mkdir -p root/etc/sub bin mnt; echo ID=test >root/etc/os-release; echo x >root/etc/'two words'
        touch root/etc/osmium root/$'et\n\e[31mc'; tar --create --file root.tar --directory root .
        ln -s "$IMAGEFS" bin/imagefs; bin/imagefs ls ./root.tar /
    "#;
    succeed(sandbox.command("bash").args(["-euc", script]).env("IMAGEFS", env!("CARGO_BIN_EXE_imagefs")));
    sandbox
}

/// What a shell prints, with the program on its path.
fn shell(sandbox: &Sandbox, shell: &[&str], script: &str) -> Vec<String> {
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = sandbox.command(shell[0]);
    command.args(&shell[1..]).args(["-c", script]).env("PATH", path).env("LC_ALL", "C.UTF-8");
    let outcome = sandbox.run(&mut command);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{script}");
    outcome.stdout.lines().map(str::to_owned).collect()
}

/// What bash makes of a line: the words are as bash takes them apart.
fn bash(sandbox: &Sandbox, words: &[&str], line: &str) -> Vec<String> {
    let words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "set -eu; source <(imagefs completions bash); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}
         COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _imagefs
         (( ${{#COMPREPLY[@]}} == 0 )) || printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    shell(sandbox, &["bash", "--norc"], &script)
}

fn zsh(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let words = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    // What the completion system does with the candidates is its own affair: they are its last argument.
    let script = format!(
        "compdef() {{ }}; source <(imagefs completions zsh); compadd() {{ print -rl -- ${{(P)@[-1]}} }}
         words=({words}); CURRENT=$#words; _imagefs || true"
    );
    shell(sandbox, &["zsh", "-f"], &script)
}

fn fish(sandbox: &Sandbox, line: &str) -> Vec<String> {
    let script = format!("imagefs completions fish | source; complete --do-complete '{line}'");
    let lines = shell(sandbox, &["fish", "--no-config"], &script);
    lines.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn every_shell_completes_verbs_options_and_paths_inside_a_source() {
    let sandbox = place();
    for (words, found) in [
        (&["imagefs", "umo"][..], &["umount"][..]),
        (&["imagefs", "ls", "--rec"], &["--recursive"]),
        (&["imagefs", "cat", "./root.tar", "/e"], &["/etc/"]),
        (&["imagefs", "cat", "./root.tar", "/etc/os"], &["/etc/os-release", "/etc/osmium"]),
        (&["imagefs", "grep", "x", "./root.tar", "/etc/su"], &["/etc/sub/"]),
        (&["imagefs", "mount", "-o", "flat,sym"], &["flat,symlinks="]),
    ] {
        let line = words.join(" ");
        // Bash is handed what ends a word with a blank.
        let ended =
            |word: &&str| if word.ends_with(['/', '=']) { (*word).to_owned() } else { format!("{word} ") };
        assert_eq!(bash(&sandbox, words, &line), found.iter().map(ended).collect::<Vec<_>>(), "{line}");
        assert_eq!(zsh(&sandbox, words), found, "{line}");
        assert_eq!(fish(&sandbox, &line), found, "{line}");
    }
    // A name that would break the lines of a shell is not offered.
    assert_eq!(fish(&sandbox, "imagefs ls ./root.tar /"), ["/etc/"]);
}

#[test]
fn a_path_behind_a_source_is_completed_though_bash_takes_colons_for_ends_of_words() {
    let sandbox = place();
    let line = "imagefs cat ./root.tar:/etc/os";
    let split = ["imagefs", "cat", "./root.tar", ":", "/etc/os"];
    assert_eq!(bash(&sandbox, &split, line), ["/etc/os-release ", "/etc/osmium "]);
    let whole = ["imagefs", "cat", "./root.tar:/etc/os"];
    let found = ["./root.tar:/etc/os-release", "./root.tar:/etc/osmium"];
    assert_eq!(zsh(&sandbox, &whole), found);
    assert_eq!(fish(&sandbox, line), found);
}

#[test]
fn mountpoints_and_cache_entries_are_completed() {
    let sandbox = place();
    let mountpoint = sandbox.path("mnt");
    sandbox.run(&mut sandbox.imagefs(["mount", "--wait", "./root.tar", "mnt"])).success();
    let named = mountpoint.to_str().unwrap();
    assert_eq!(fish(&sandbox, "imagefs umount /"), [named]);
    sandbox.unmount(&mountpoint);
    let keys = sandbox.run(&mut sandbox.imagefs(["cache", "ls", "--json"])).success().stdout;
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    let offered = fish(&sandbox, "imagefs cache rm ");
    let offered = offered.iter().filter(|word| !word.starts_with('-'));
    for key in offered {
        assert!(keys[0]["key"].as_str().unwrap().starts_with(key.as_str()), "{key}");
    }
}

#[test]
fn images_of_the_daemon_are_completed_and_one_that_is_away_is_not_waited_for() {
    let sandbox = place();
    let complete = |host: &str| {
        let mut command = sandbox.imagefs(["complete", "2", "--", "imagefs", "ls", "imagefs-test/sm"]);
        sandbox.run(command.env("DOCKER_HOST", host)).success()
    };
    let found = complete(Daemon::docker().host());
    assert!(found.stdout.lines().any(|line| line.starts_with("imagefs-test/small")), "{found:?}");
    // One that takes the connection and never answers, and one that is not there.
    let _silent = UnixListener::bind(sandbox.path("silent.sock")).unwrap();
    for socket in ["silent.sock", "none.sock"] {
        let host = format!("unix://{}", sandbox.path(socket).display());
        let outcome = complete(&host);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{host}");
    }
}
