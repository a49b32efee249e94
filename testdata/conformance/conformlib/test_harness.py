"""Tests of the harness itself: python3 -m unittest conformlib.test_harness"""
import argparse
import io
import os
import shutil
import tempfile
import unittest

from . import arch, bases, cases, compare, main, observe, serve


def layer(*rows):
    t = arch.TarWriter()
    for r in rows:
        kw = dict(r[2]) if len(r) > 2 else {}
        t.add(r[0], r[1], **kw)
    return io.BytesIO(t.bytes())


class Flatten(unittest.TestCase):
    def test_whiteout_opaque_and_types(self):
        t = observe.Tree()
        t.apply(layer(("a/x", "file", {"data": b"1"}), ("a/y", "file"), ("b/z", "file"),
                      ("c", "file"), ("d/e", "file")))
        t.apply(layer(("a/.wh.x", "file"), ("b/.wh..wh..opq", "file"), ("b/new", "file"),
                      ("c", "dir"), ("c/f", "file"), ("d", "symlink", {"target": "a"})))
        self.assertEqual(sorted(t.nodes), ["a", "a/y", "b", "b/new", "c", "c/f", "d"])
        self.assertEqual(t.nodes["d"].kind, "symlink")
        self.assertTrue(t.nodes["a"].implied)

    def test_hardlinks_and_their_break(self):
        t = observe.Tree()
        t.apply(layer(("f", "file", {"data": b"x"}), ("g", "hardlink", {"target": "f"})))
        self.assertIs(t.nodes["f"], t.nodes["g"])
        t.apply(layer(("f", "file", {"data": b"y"})))
        self.assertIsNot(t.nodes["f"], t.nodes["g"])
        self.assertEqual(t.nodes["g"].text, "x")

    def test_link_to_nothing(self):
        with self.assertRaises(observe.ObserveError):
            observe.Tree().apply(layer(("g", "hardlink", {"target": "f"})))


class Archives(unittest.TestCase):
    def test_stored_gzip_and_raw_zstd(self):
        import gzip
        for data in (b"", b"abc", bytes(200000)):
            self.assertEqual(gzip.decompress(arch.gzip_stored(data)), data)
            if shutil.which("zstd"):
                f = arch.decompress_stream(io.BytesIO(arch.zstd_raw(data)))
                self.assertEqual(f.read(), data)

    def test_tar_description(self):
        data = cases.make_tar('dir mode=0700 d\nfile uid=3 gid=4 "d/a b" = "x\\n"\n'
                              'hard h -> "d/a b"\nsymlink l -> /etc\nchar dev=1,3 n\n')
        t = observe.Tree()
        t.apply(io.BytesIO(data))
        self.assertEqual((t.nodes["d"].mode, t.nodes["d/a b"].uid, t.nodes["d/a b"].gid),
                         (0o700, 3, 4))
        self.assertIs(t.nodes["h"], t.nodes["d/a b"])
        self.assertEqual(t.nodes["n"].dev, "1,3")


class CaseFormat(unittest.TestCase):
    TEXT = ('desc: d\nbuild-arg: A=1\nbuild-arg: B=2\nvolatile: /r\n-- Dockerfile crlf --\nFROM x\n'
            '-- "a b" mode=0600 --\nhi\n-- @step two --\nbuild-arg: A=3\nno-cache: true\n'
            '-- "a b" delete --\n-- d/ --\n')

    def test_steps_inherit(self):
        c = cases.Case("x/y", "", self.TEXT)
        self.assertEqual([s.many("build-arg") for s in c.steps], [["A=1", "B=2"], ["A=3"]])
        self.assertEqual(c.steps[1].get("no-cache"), "true")
        self.assertEqual([e.path for e in c.steps[0].entries], ["Dockerfile", "a b"])

    def test_tree_on_disk(self):
        c = cases.Case("x/y", "", self.TEXT)
        d = tempfile.mkdtemp()
        try:
            same = lambda s: s
            cases.write_tree(d, [(e.path, e) for e in c.steps[0].entries], same)
            self.assertEqual(os.stat(d + "/a b").st_mode & 0o7777, 0o600)
            self.assertEqual(int(os.stat(d + "/a b").st_mtime), cases.CTX_MTIME)
            with open(d + "/Dockerfile", "rb") as f:
                self.assertEqual(f.read(), b"FROM x\r\n")
            cases.write_tree(d, [(e.path, e) for e in c.steps[1].entries], same)
            self.assertEqual(sorted(os.listdir(d)), ["Dockerfile", "d"])
        finally:
            shutil.rmtree(d)

    def test_unknown_option(self):
        with self.assertRaises(cases.CaseError):
            cases.Case("x/y", "", "desc: d\ntarrget: x\n")


class Comparison(unittest.TestCase):
    def setUp(self):
        self.b = observe.Bases()

    def image(self, **kw):
        im = {"platform": "linux/amd64", "base": "scratch", "config": {"Env": ["A=1", "B=2"]},
              "fs": {"set": {"/f": {"type": "file", "mode": "0644", "text": "x"}}, "gone": []},
              "layers": 1, "history": [{"created_by": "x"}]}
        im.update(kw)
        return {"steps": [{"outcome": "ok", "images": [im]}]}

    def aspects(self, got):
        return sorted({d.aspect for d in compare.compare(self.image(), got, self.b)})

    def test_equal(self):
        self.assertEqual(self.aspects(self.image()), [])

    def test_each_aspect(self):
        f = {"type": "file", "mode": "0600", "text": "x"}
        self.assertEqual(self.aspects(self.image(fs={"set": {"/f": f}, "gone": []})), ["fs"])
        self.assertEqual(self.aspects(self.image(fs={"set": {}, "gone": []})), ["fs"])
        self.assertEqual(self.aspects(self.image(config={"Env": ["A=1"]})), ["config"])
        self.assertEqual(self.aspects(self.image(config={"Env": ["B=2", "A=1"]})), ["cosmetic"])
        self.assertEqual(self.aspects(self.image(
            config={"Env": ["A=1", "B=2"], "WorkingDir": "/"})), ["cosmetic"])
        self.assertEqual(self.aspects(self.image(layers=2)), ["layers"])
        self.assertEqual(self.aspects(self.image(platform="linux/arm64")), ["platforms"])
        self.assertEqual(self.aspects({"steps": [{"outcome": "error"}]}), ["outcome"])

    def test_base_reference(self):
        """A golden relative to a base equals the same tree stated in full."""
        t = observe.Tree()
        t.apply(layer(("etc/a", "file", {"data": b"1"}), ("etc/b", "file", {"data": b"2"})))
        self.b.by_token["busybox"] = t
        rel = self.image(base="busybox", fs={"set": {}, "gone": ["/etc/b"]})
        full = self.image(fs={"set": {"/etc": {"type": "dir", "mode": "0755"},
                                      "/etc/a": {"type": "file", "mode": "0644", "text": "1"}},
                              "gone": []})
        self.assertEqual(compare.compare(rel, full, self.b), [])


class BaseImages(unittest.TestCase):
    def test_deterministic(self):
        d = tempfile.mkdtemp()
        try:
            one = bases.make_all(d + "/1")
            two = bases.make_all(d + "/2")
            self.assertEqual(one, two)
            ims = observe.load_images(d + "/1/busybox-multi")
            self.assertEqual([observe.plat_string(i.platform) for i in ims],
                             ["linux/amd64", "linux/arm64", "linux/arm/v7"])
        finally:
            shutil.rmtree(d)

    def test_registry(self):
        import json
        import urllib.request
        d = tempfile.mkdtemp()
        s = serve.Server(d, d)
        try:
            bases.make_all(d + "/b")
            s.store.add_layout("x/busybox", d + "/b/busybox")
            with urllib.request.urlopen(f"http://{s.addr}/v2/x/busybox/manifests/latest") as r:
                m = json.load(r)
            with urllib.request.urlopen(
                    f"http://{s.addr}/v2/x/busybox/blobs/{m['config']['digest']}") as r:
                self.assertEqual(bases.sha(r.read()), m["config"]["digest"])
        finally:
            s.close()
            shutil.rmtree(d)


class Differences(unittest.TestCase):
    def write(self, text):
        f = tempfile.NamedTemporaryFile("w", suffix="-differences")
        self.addCleanup(f.close)
        f.write(text)
        f.flush()
        return f.name

    def test_read(self):
        p = self.write("# why\n\na/b: reason: with a colon\nc/d: x\n")
        self.assertEqual(main.read_differences(p), {"a/b": "reason: with a colon", "c/d": "x"})
        for bad in ("a/b\n", "a/b:\n", "a/b: x\na/b: y\n"):
            with self.assertRaises(SystemExit):
                main.read_differences(self.write(bad))

    def test_read_rungs(self):
        p = self.write("# why\na/b: one,two: reason: with a colon\n    error: no .*: really\nc/d: two: x\ne/f: three: y\n    error: z\n")
        self.assertEqual(main.read_rungs(p, "one"), ({"a/b": "reason: with a colon"}, {"a/b": "no .*: really"}))
        self.assertEqual(main.read_rungs(p, "two"), ({"a/b": "reason: with a colon", "c/d": "x"}, {"a/b": "no .*: really"}))
        self.assertEqual(main.read_rungs(p, "four"), ({}, {}))
        for bad in ("a/b: one\n", "a/b: one:\n", "a/b: one: x\na/b: two,one: y\n", "    error: x\n", "a/b: one: x\n  other: y\n"):
            with self.assertRaises(SystemExit):
                main.read_rungs(self.write(bad), "one")

    def test_apply_errors(self):
        args = argparse.Namespace(differences="LIST", listed={"a/b": "reason"}, errors={"a/b": "no (network|mount)"}, refused="cannot run")
        for case, status, log, want in (("a/b", "fail", "there is no network", "differs"), ("a/b", "fail", "something else", "fail"),
                                        ("a/b", "pass", "", "fail"), ("c/d", "fail", "cannot run it", "refused"), ("c/d", "fail", "x", "fail")):
            rec = {"case": case, "status": status, "log": log}
            main.apply_differences(args, rec)
            self.assertEqual(rec["status"], want, (case, log))

    def test_apply(self):
        args = argparse.Namespace(differences="LIST", listed={"a/b": "reason"}, errors={}, refused=None)
        for case, status, want in (("a/b", "fail", "differs"), ("a/b", "pass", "fail"),
                                   ("c/d", "fail", "fail"), ("c/d", "pass", "pass")):
            rec = {"case": case, "status": status}
            main.apply_differences(args, rec)
            self.assertEqual(rec["status"], want, case)
        rec = {"case": "a/b", "status": "fail", "crash": "broken image"}
        main.apply_differences(args, rec)
        self.assertEqual(rec["status"], "fail")


if __name__ == "__main__":
    unittest.main()
