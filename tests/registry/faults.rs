//! Every wrong answer at every request: its message, its exit status, and nothing half made in the cache.

use super::server::{Registry, Reply, Request, Server};
use super::{CONTENT, blobs, in_cache, layout, registry, run};
use crate::oci::build::Layout;
use crate::support::{Outcome, Sandbox};

/// Lists the image of a registry that answers wrongly, and what was asked.
fn listed(
    fault: impl Fn(&Request, usize, &Registry) -> Option<Reply> + Send + Sync + 'static,
) -> (Outcome, Vec<Request>, usize) {
    let server = Server::faulty(registry(), fault);
    let sandbox = Sandbox::new();
    let outcome = run(&sandbox, &["ls", &server.image("a/b:1"), "/"]);
    (outcome, server.requests(), in_cache(&sandbox))
}

/// Whether a request is for the manifest, for the configuration, or for the lower layer.
fn is_for(request: &Request, what: &str) -> bool {
    let [config, lower, _] = &blobs(&layout())[..] else { panic!() };
    match what {
        "manifest" => request.line.contains("/manifests/"),
        "configuration" => request.line.ends_with(config),
        _ => request.line.ends_with(lower),
    }
}

const ALL: [&str; 3] = ["manifest", "configuration", "layer"];

#[test]
fn what_passes_is_waited_for_at_every_request() {
    for what in ALL {
        for status in [429, 500, 502, 503] {
            let (outcome, requests, _) = listed(move |request, before, _| {
                let busy = Reply::error(status, "TOOMANYREQUESTS", "slow down").with("retry-after", 0);
                (is_for(request, what) && before < 2).then_some(busy)
            });
            assert_eq!(outcome.success().stdout, "etc\nfile\nlarge\n", "{what}: {status}");
            assert_eq!(
                requests.iter().filter(|request| is_for(request, what)).count(),
                3,
                "{what}: {status}"
            );
        }
    }
}

#[test]
fn what_does_not_pass_is_given_up() {
    for what in ALL {
        let (outcome, requests, left) = listed(move |request, _, _| {
            let busy = Reply::error(503, "UNAVAILABLE", "closed for the night").with("retry-after", 0);
            is_for(request, what).then_some(busy)
        });
        assert_eq!(outcome.code, Some(4), "{what}: {outcome:?}");
        assert!(outcome.stderr.contains("answers 503: closed for the night"), "{what}: {outcome:?}");
        assert_eq!(requests.iter().filter(|request| is_for(request, what)).count(), 4, "{what}");
        // The other layer may have come meanwhile; nothing else has.
        assert!(left <= usize::from(what == "layer"), "{what}");
    }
    // Who wants to be left alone for long is not asked again.
    let (outcome, requests, _) =
        listed(|_, _, _| Some(Reply::error(429, "TOOMANYREQUESTS", "later").with("retry-after", 3600)));
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert_eq!(requests.len(), 1);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_broke() {
    for at in [0, 1, 1000, 500_000, 799_999] {
        let server = Server::faulty(registry(), move |request, before, registry| {
            (is_for(request, "layer") && before == 0).then(|| registry.answer(request).cut(at))
        });
        let sandbox = Sandbox::new();
        let outcome = run(&sandbox, &["cat", &server.image("a/b:1"), "/file"]).success();
        assert_eq!(outcome.stdout.as_bytes(), CONTENT, "{at}");
        let requests = server.requests();
        let layer: Vec<_> = requests.iter().filter(|request| is_for(request, "layer")).collect();
        let [first, second] = layer[..] else { panic!("{layer:?}") };
        assert_eq!(first.header("range"), "", "{at}");
        let size = registry().blob(&blobs(&layout())[1]).len();
        match at {
            0 => assert_eq!(second.header("range"), ""),
            _ => assert_eq!(second.header("range"), format!("bytes={at}-{}", size - 1)),
        }
    }
}

#[test]
fn the_whole_where_a_part_was_asked_for_is_taken_from_there() {
    let (outcome, requests, _) = listed(|request, before, registry| {
        let whole = Request { headers: Default::default(), ..request.clone() };
        let reply = registry.answer(&whole);
        is_for(request, "layer").then(|| if before == 0 { reply.cut(300_000) } else { reply })
    });
    assert_eq!(outcome.success().stdout, "etc\nfile\nlarge\n");
    let ranges: Vec<_> =
        requests.iter().map(|request| request.header("range")).filter(|r| !r.is_empty()).collect();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
}

/// A layer that is answered wrongly in this way, from the second request on if `resumed`.
#[track_caller]
fn bad_layer(
    message: &str,
    status: i32,
    resumed: bool,
    spoil: impl Fn(Reply, usize) -> Reply + Send + Sync + 'static,
) {
    let size = registry().blob(&blobs(&layout())[1]).len();
    let (outcome, _, left) = listed(move |request, before, registry| {
        let reply = registry.answer(request);
        match (is_for(request, "layer"), resumed && before == 0) {
            (false, _) => None,
            (true, true) => Some(reply.cut(1000)),
            (true, false) => Some(spoil(reply, size)),
        }
    });
    assert_eq!(outcome.code, Some(status), "{message}: {outcome:?}");
    assert!(outcome.stderr.contains(message), "{message}: {outcome:?}");
    assert!(left <= 1, "{message}: {left} entries are left");
}

#[test]
fn a_layer_that_is_not_what_it_should_be_is_refused() {
    bad_layer("has the digest", 6, false, |mut reply, size| {
        reply.body[size / 2] ^= 1;
        reply
    });
    bad_layer("bytes came where", 6, false, |mut reply, _| {
        reply.body.pop();
        reply
    });
    bad_layer("bytes came where", 6, false, |mut reply, _| {
        reply.body.push(0);
        reply
    });
    let endless = |reply: Reply, _| Reply { endless: true, ..reply };
    bad_layer("has more than the", 6, false, endless);
    bad_layer("lacks sha256:", 6, false, |_, _| {
        Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry")
    });
    bad_layer("the status is 204", 6, false, |_, _| Reply::new(204, ""));
}

#[test]
fn a_range_that_is_not_what_was_asked_for_is_refused() {
    let ranged = |range: &'static str| {
        move |reply: Reply, size: usize| reply.with("content-range", range.replace("SIZE", &size.to_string()))
    };
    bad_layer("bytes 0 to 5 came where", 6, true, ranged("bytes 0-4/SIZE"));
    bad_layer("bytes 1001 to", 6, true, ranged("bytes 1001-2000/SIZE"));
    bad_layer("it has 7 bytes where", 6, true, ranged("bytes 1000-2000/7"));
    bad_layer("a range of it is not told", 6, true, ranged("bytes what"));
    bad_layer("a range of it is not told", 6, true, |mut reply, _| {
        reply.headers.clear();
        reply
    });
    bad_layer("it has not all of the", 6, true, |_, _| {
        Reply::error(416, "BLOB_UNKNOWN", "We don't understand")
    });
}

#[test]
fn a_registry_that_leads_nowhere_good_is_not_followed() {
    let lead = |to: &'static str| move |_: Reply, _: usize| Reply::new(307, "").with("location", to);
    bad_layer(
        "leads to \"file:///etc/passwd\": that is neither https nor http",
        6,
        false,
        lead("file:///etc/passwd"),
    );
    bad_layer("that is no URL", 6, false, lead("http://[/"));
    let (outcome, requests, _) = listed(|request, _, _| {
        let led = is_for(request, "layer") || request.line.ends_with("/again");
        led.then(|| Reply::new(307, "").with("location", "/again"))
    });
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    assert!(outcome.stderr.contains("there is no end to it"), "{outcome:?}");
    assert_eq!(requests.iter().filter(|request| request.line.ends_with("/again")).count(), 5);
    // What stands behind a question mark may let anybody in.
    bad_layer("leads to \"ftp://a/b\": that", 6, false, lead("ftp://a/b?secret"));
}

#[test]
fn a_manifest_that_is_none_is_refused() {
    let refused = |message: &str, status: i32, reply: Reply| {
        let (outcome, _, left) =
            listed(move |request, _, _| is_for(request, "manifest").then(|| reply.clone()));
        assert_eq!(outcome.code, Some(status), "{message}: {outcome:?}");
        assert!(outcome.stderr.contains(message), "{message}: {outcome:?}");
        assert_eq!(left, 0, "{message}");
    };
    let large = vec![b' '; (4 << 20) + 1];
    refused("a manifest of more than 4194304 bytes", 6, Reply::new(200, large));
    refused("has more than 4194304 bytes", 4, Reply { endless: true, ..Reply::new(200, "") });
    refused("is not what it should be", 6, Reply::new(200, "<html>"));
    refused(
        "gives a manifest with the digest",
        6,
        Reply::new(200, "{}").with("docker-content-digest", format!("sha256:{}", "0".repeat(64))),
    );
    refused(
        "schema version 1",
        6,
        Reply::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#)
            .with("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    );
    let chart = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:0","size":1},"layers":[]}"#;
    refused("is an artifact of type", 6, Reply::new(200, chart));
}

#[test]
fn a_tag_that_is_not_there_is_told_with_its_neighbours() {
    let mut registry = registry();
    for tag in ["1.1", "latest", "nightly"] {
        registry.add(&layout(), tag);
    }
    let (sandbox, server) = (Sandbox::new(), Server::start(registry));
    let outcome = run(&sandbox, &["ls", &server.image("a/b:1.2"), "/"]);
    assert_eq!(outcome.code, Some(3));
    assert!(outcome.stderr.contains("has no image a/b:1.2; it has 1.1, 1, "), "{outcome:?}");
    let digest = format!("sha256:{}", "0".repeat(64));
    let outcome = run(&sandbox, &["ls", &server.image(&format!("a/b@{digest}")), "/"]);
    assert_eq!(outcome.code, Some(3));
    assert!(outcome.stderr.contains(&format!("has no image a/b@{digest}\n")), "{outcome:?}");
}

#[test]
fn layers_that_nobody_may_have_are_named() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let mut registry = Registry::default();
    registry.add(
        &Layout::of(&[crate::oci::build::layer("a", b"")], |_, manifest| {
            manifest["layers"][0]["mediaType"] = foreign.into();
        }),
        "1",
    );
    let (sandbox, server) = (Sandbox::new(), Server::start(registry));
    let outcome = run(&sandbox, &["ls", &server.image("a/b:1"), "/"]);
    assert_eq!(outcome.code, Some(6));
    assert!(outcome.stderr.contains("is not distributed with the image"), "{outcome:?}");
}
