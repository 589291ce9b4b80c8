use super::*;

/// A status with these details, in JSON.
fn status(details: &[(&str, &str)]) -> Status {
    let any = |(kind, json): &(&str, &str)| Any {
        type_url: format!("github.com/moby/buildkit/{kind}"),
        value: json.as_bytes().to_vec(),
    };
    let details = details.iter().map(any).collect();
    let status = rpc::Status { code: 2, message: "it\nfailed".into(), details };
    Status::with_details(tonic::Code::Unknown, "it\nfailed", status.encode_to_vec().into())
}

// As buildkitd 0.34.2 has said it.
const EXEC: &str = r#"{"inputIDs":["w::before","","w::data","","","w::c"],"mountIDs":["w::after","","w::data","","",""],
    "op":{"inputs":[{"digest":"sha256:0d5c"},{"digest":"sha256:d823"}],"exec":{"meta":{"args":["/bin/sh"]},"mounts":[
    {"dest":"/"},{"input":"-1","dest":"/cache","output":"-1","mountType":"CACHE","cacheOpt":{"ID":"//cache"}},
    {"input":"1","selector":"/sub","dest":"/data","output":"-1","readonly":true},
    {"input":"-1","dest":"/scratch","output":"-1","mountType":"TMPFS","TmpfsOpt":{}},
    {"input":"-1","dest":"/run/secrets/tok","mountType":"SECRET","secretOpt":{"ID":"tok","mode":256}},
    {"input":"1","dest":"/l","mountType":"CACHE","cacheOpt":{"ID":"l","sharing":"LOCKED"}}]}},
    "description":{"llb.customname":"[2/3] RUN\tx"}}"#;

#[test]
fn a_step_that_was_run_has_its_mounts_but_no_secrets() {
    let failed = read(&status(&[
        ("stack.Stack+json", "{}"),
        ("errdefs.Solve+json", EXEC),
        (
            "errdefs.Source+json",
            r#"{"ranges":[{"start":{"line":7},"end":{"line":7}},{"start":{"line":8},"end":{"line":9}}]}"#,
        ),
        ("errdefs.Vertex+json", r#"{"digest":"sha256:603a"}"#),
        ("gatewayapi.ExitMessage+json", r#"{"Code":7}"#),
    ]))
    .unwrap();
    assert_eq!((failed.name.as_str(), failed.message.as_str()), ("[2/3] RUN x", "it failed"));
    assert_eq!(
        (failed.exit_code, failed.lines, failed.digest.as_str()),
        (Some(7), Some((7, 9)), "sha256:603a")
    );
    let told = |mount: &StepMount| {
        let source = mount.source.as_ref().map(|source| (source.result.clone(), source.is_locked()));
        (mount.role, mount.destination.clone(), mount.selector.clone(), mount.read_only, source)
    };
    let mount = |role, at: &str, selector: &str, read_only, source: Option<(&str, bool)>| {
        (
            role,
            at.to_owned(),
            selector.to_owned(),
            read_only,
            source.map(|(id, locked)| (id.to_owned(), locked)),
        )
    };
    assert_eq!(
        failed.mounts.iter().map(told).collect::<Vec<_>>(),
        [
            mount(Role::Root, "/", "/", false, Some(("w::after", false))),
            mount(Role::Before, "/", "/", false, Some(("w::before", false))),
            mount(Role::Cache, "/cache", "/", false, Some(("", false))),
            mount(Role::Bind, "/data", "/sub", true, Some(("w::data", false))),
            mount(Role::Tmpfs, "/scratch", "/", false, None),
            mount(Role::Cache, "/l", "/", false, Some(("", true))),
        ]
    );
    for mount in failed.mounts.iter().filter_map(|mount| mount.source.as_ref()) {
        assert!(mount.to_mount("/f0".into()).readonly, "or it would stay in the daemon");
    }
}

#[test]
fn a_step_that_copies_has_what_was_copied_or_what_was_to_be() {
    let roles = |json: &str| {
        let failed = read(&status(&[("errdefs.Solve+json", json)])).unwrap();
        let id =
            |mount: &StepMount| mount.source.as_ref().map(|source| source.result.clone()).unwrap_or_default();
        failed.mounts.iter().map(|mount| (mount.role, id(mount))).collect::<Vec<_>>()
    };
    let add = r#"{"inputIDs":["w::before","w::context"],"mountIDs":["w::after"],"file":{},
        "op":{"file":{"actions":[{"secondaryInput":"1","copy":{"src":"/cut.tar.gz"}}]}}}"#;
    assert_eq!(roles(add), [(Role::Root, "w::after".into()), (Role::Before, "w::before".into())]);
    let onto_nothing = r#"{"inputIDs":["w::context"],"mountIDs":["","w::after"],
        "op":{"file":{"actions":[{"input":"-1","secondaryInput":"0","copy":{}},{"input":"1"}]}}}"#;
    assert_eq!(roles(onto_nothing), [(Role::Root, "w::after".into()), (Role::Before, String::new())]);
    let missing = r#"{"inputIDs":["w::context"],"cache":{"index":"1"},
        "op":{"file":{"actions":[{"secondaryInput":"1","copy":{"src":"/nope"}}]}}}"#;
    assert_eq!(roles(missing), [(Role::CopySource, "w::context".into())]);
}

#[test]
fn what_is_no_steps_fault_is_a_refusal_with_its_line() {
    let syntax = status(&[("errdefs.Source+json", r#"{"ranges":[{"start":{"line":3},"end":{"line":3}}]}"#)]);
    assert!(read(&syntax).is_none());
    let BuildError::Refused { message, line, .. } = refusal("build", syntax) else { panic!() };
    assert_eq!((message.as_str(), line), ("it failed", Some(3)));
    // Nothing is left to be looked into.
    assert!(read(&status(&[("errdefs.Solve+json", r#"{"op":{"source":{}}}"#)])).is_none());
    for nonsense in ["", "[]", "{\"op\":7}", "{\"inputIDs\":[1]}"] {
        assert!(read(&status(&[("errdefs.Solve+json", nonsense)])).is_none(), "{nonsense}");
    }
    assert!(matches!(refusal("build", Status::unavailable("gone")), BuildError::Lost { .. }));
}

#[test]
fn a_way_of_sharing_that_is_not_known_counts_as_locked() {
    let name = |json: &str| serde_json::from_str::<Name>(json).unwrap().sharing();
    assert_eq!(name("\"PRIVATE\""), CacheSharingOpt::Private);
    assert_eq!(name("0"), CacheSharingOpt::Shared);
    assert_eq!((name("\"NEW\""), name("9")), (CacheSharingOpt::Locked, CacheSharingOpt::Locked));
}
