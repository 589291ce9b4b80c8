//! Who is let in, and what they are shown: names and passwords, tokens, certificates, proxies.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::server::{Reply, Request, Server};
use super::{CONTENT, registry, run};
use crate::support::Sandbox;

/// `user:secret`, and what a header has for it.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Has docker know somebody at a registry.
fn log_in(sandbox: &Sandbox, server: &Server, entry: &str) {
    fs::create_dir_all(sandbox.path("home/.docker")).unwrap();
    let config = format!(r#"{{"auths": {{"{}": {entry}}}}}"#, server.address);
    fs::write(sandbox.path("home/.docker/config.json"), config).unwrap();
}

const PASSWORD: &str = r#"{"auth": "dXNlcjpzZWNyZXQ="}"#;

fn challenge(header: &str) -> Option<Reply> {
    Some(Reply::error(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", header))
}

#[test]
fn a_password_is_shown_to_who_asks_for_it() {
    let server = Server::faulty(registry(), |request, _, _| match request.header("authorization") {
        BASIC => None,
        _ => challenge(r#"Basic realm="here""#),
    });
    let (sandbox, image) = (Sandbox::new(), server.image("a/b:1"));
    let outcome = run(&sandbox, &["cat", &image, "/file"]);
    assert_eq!(outcome.code, Some(4));
    let expected = format!("{} does not let you read a/b: authentication required", server.address);
    assert!(outcome.stderr.contains(&expected), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("docker login {}", server.address)), "{outcome:?}");

    log_in(&sandbox, &server, r#"{"auth": "dXNlcjp3cm9uZw=="}"#);
    let outcome = run(&sandbox, &["cat", &image, "/file"]);
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.stderr.contains("the credentials that are stored for it are not enough"), "{outcome:?}");

    server.requests();
    log_in(&sandbox, &server, PASSWORD);
    let outcome = run(&sandbox, &["-vv", "cat", &image, "/file"]).success();
    assert_eq!(outcome.stdout.as_bytes(), CONTENT);
    for secret in ["secret", "dXNlcjpzZWNyZXQ"] {
        assert!(!outcome.stderr.contains(secret), "the log has the password: {outcome:?}");
    }
    let asked = server.requests();
    assert_eq!(
        asked.iter().filter(|request| request.header("authorization").is_empty()).count(),
        1,
        "{asked:?}"
    );
}

#[test]
fn the_files_of_podman_and_the_helpers_of_docker_are_read() {
    let server = Server::faulty(registry(), |request, _, _| match request.header("authorization") {
        BASIC => None,
        _ => challenge("Basic"),
    });
    let image = server.image("a/b:1");
    let podman = Sandbox::new();
    fs::create_dir_all(podman.path("run/containers")).unwrap();
    // The one for the repository goes before that for the registry.
    let auth = format!(
        r#"{{"auths": {{"{0}": {{"auth": "dXNlcjp3cm9uZw=="}}, "{0}/a/b": {PASSWORD}}}}}"#,
        server.address
    );
    fs::write(podman.path("run/containers/auth.json"), auth).unwrap();
    run(&podman, &["cat", &image, "/file"]).success();

    let helped = Sandbox::new();
    fs::create_dir_all(helped.path("home/.docker")).unwrap();
    fs::write(helped.path("home/.docker/config.json"), r#"{"credsStore": "test"}"#).unwrap();
    // Written by a process of its own: one that others are forked from could keep the file open for writing.
    let helper = |script: &str| {
        let write = "cat >docker-credential-test; chmod +x docker-credential-test";
        let mut writer = helped.command("bash");
        let mut writer = writer.args(["-euc", write]).stdin(Stdio::piped()).spawn().unwrap();
        let script = format!("#!/bin/sh\nread host\n{script}\n");
        writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(writer.wait().unwrap().success());
    };
    let path = format!("{}:{}", helped.path("").display(), std::env::var("PATH").unwrap());
    let listed = || helped.run(helped.imagefs(["inspect", &image]).env("PATH", &path));
    let known = r#"{"Username": "user", "Secret": "secret"}"#;
    helper(&format!("[ \"$host\" = {} ] && [ \"$1\" = get ] && echo '{known}'", server.address));
    listed().success();
    // One that knows nobody is no error: there may be an image for everybody.
    helper("echo 'credentials not found in native keychain'; exit 1");
    let outcome = listed();
    assert!(outcome.stderr.contains("does not let you read a/b"), "{outcome:?}");
    helper("echo hidden; echo 'the keychain is locked' >&2; exit 1");
    let outcome = listed();
    assert_eq!(outcome.code, Some(4));
    assert!(outcome.stderr.contains("docker-credential-test fails: the keychain is locked"), "{outcome:?}");
    assert!(!outcome.stderr.contains("hidden"), "{outcome:?}");
}

/// A registry that wants tokens, each of which is good for so many requests.
fn with_tokens(good_for: usize) -> (Server, Arc<AtomicUsize>) {
    let (used, given) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&given);
    let server = Server::faulty(registry(), move |request, _, _| {
        if request.line.contains(" /token") {
            used.store(0, Ordering::SeqCst);
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            return Some(Reply::new(200, format!(r#"{{"token": "T{number}"}}"#)));
        }
        let shown = format!("Bearer T{}", count.load(Ordering::SeqCst));
        match request.header("authorization") == shown && used.fetch_add(1, Ordering::SeqCst) < good_for {
            true => None,
            false => {
                let realm = format!("http://{}/token", request.header("host"));
                challenge(&format!(r#"Bearer realm="{realm}",service="s",scope="repository:a/b:pull""#))
            }
        }
    });
    (server, given)
}

fn token_requests(server: &Server) -> Vec<Request> {
    server.requests().into_iter().filter(|request| request.line.contains(" /token")).collect()
}

#[test]
fn a_token_is_got_for_nobody_for_a_password_and_for_another_token() {
    let (server, _) = with_tokens(usize::MAX);
    let image = server.image("a/b:1");
    let ask = "/token?scope=repository%3Aa%2Fb%3Apull&service=s";
    for (entry, line, authorization) in [
        (None, format!("GET {ask}"), ""),
        (Some(PASSWORD), format!("GET {ask}"), BASIC),
        (Some(r#"{"auth": "dTo=", "identitytoken": "I"}"#), "POST /token".to_owned(), ""),
    ] {
        let sandbox = Sandbox::new();
        if let Some(entry) = entry {
            log_in(&sandbox, &server, entry);
        }
        run(&sandbox, &["cat", &image, "/file"]).success();
        let asked = token_requests(&server);
        let [token] = &asked[..] else { panic!("{asked:?}") };
        assert_eq!((&token.line, token.header("authorization")), (&line, authorization));
        if token.line.starts_with("POST") {
            let fields = "scope=repository%3Aa%2Fb%3Apull&service=s&grant_type=refresh_token&client_id=imagefs&refresh_token=I";
            assert_eq!(token.body, fields);
        }
    }
}

#[test]
fn a_token_that_has_expired_is_replaced() {
    let (server, given) = with_tokens(1);
    let sandbox = Sandbox::new();
    run(&sandbox, &["inspect", &server.image("a/b:1")]).success();
    assert_eq!(given.load(Ordering::SeqCst), 2);
}

#[test]
fn no_other_host_is_shown_who_asks_and_an_address_that_expires_is_asked_for_anew() {
    // Answers the first request for each blob with its half, and refuses the next: its address has expired.
    let storage = Server::faulty(registry(), |request, before, registry| {
        let plain = Request { line: request.line.split('?').next().unwrap().to_owned(), ..request.clone() };
        match (before, request.line.contains("first")) {
            (0, true) => Some(registry.answer(&plain).cut(100)),
            (_, true) => Some(Reply::new(403, "<Error>Request has expired</Error>")),
            _ => Some(registry.answer(&plain)),
        }
    });
    let elsewhere = storage.address;
    let server = Server::faulty(registry(), move |request, before, _| {
        if request.header("authorization") != BASIC {
            return challenge("Basic");
        }
        let path = request.line.strip_prefix("GET ").filter(|path| path.contains("/blobs/"))?;
        // Every blob was asked for without a password by nobody but the first request of all.
        let time = if before == 0 { "first" } else { "second" };
        Some(Reply::new(307, "").with("location", format!("http://{elsewhere}{path}?{time}&signature=hush")))
    });
    let sandbox = Sandbox::new();
    log_in(&sandbox, &server, PASSWORD);
    let outcome = run(&sandbox, &["-vv", "cat", &server.image("a/b:1"), "/file"]).success();
    assert_eq!(outcome.stdout.as_bytes(), CONTENT);
    assert!(!outcome.stderr.contains("hush"), "the log has a signature: {outcome:?}");
    let asked = storage.requests();
    assert!(asked.iter().all(|request| request.header("authorization").is_empty()), "{asked:?}");
    assert!(asked.iter().any(|request| request.line.contains("second")), "{asked:?}");
    assert!(asked.iter().any(|request| request.header("range").starts_with("bytes=100-")), "{asked:?}");
}

#[test]
fn a_proxy_is_used_where_the_environment_names_one() {
    let proxy = Server::faulty(registry(), |request, _, registry| {
        // The whole URL is asked of a proxy.
        let (head, path) = request.line.split_once("http://registry.test")?;
        let line = format!("{head}{path}");
        Some(registry.answer(&Request { line, ..request.clone() }))
    });
    let sandbox = Sandbox::new();
    let listed = |no_proxy: &str| {
        let mut command = sandbox.imagefs([
            "ls",
            "--insecure-registry",
            "registry.test",
            "docker://registry.test/a/b:1",
            "/",
        ]);
        let url = format!("http://user:secret@{}", proxy.address);
        sandbox.run(command.env("HTTP_PROXY", &url).env("HTTPS_PROXY", &url).env("NO_PROXY", no_proxy))
    };
    // The proxy does not lead to where TLS would be.
    let outcome = listed("");
    assert_eq!(outcome.success().stdout, "etc\nfile\nlarge\n");
    let asked = proxy.requests();
    assert!(asked.iter().any(|request| request.line == "CONNECT registry.test:443"), "{asked:?}");
    assert!(asked.iter().all(|request| request.header("proxy-authorization") == BASIC), "{asked:?}");
    let outcome = listed("registry.test");
    assert!(
        outcome.stderr.contains("cannot find the host registry.test")
            || outcome.stderr.contains("could not be checked"),
        "{outcome:?}"
    );
}
