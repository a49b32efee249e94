"""Command line: run, record, list, show, new."""
import argparse
import concurrent.futures
import fnmatch
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

from . import adapters, bases, cases, compare, observe, serve

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOOD = ("pass", "same", "recorded", "differs", "refused")    # statuses that are no failure
STD = ["busybox", "busybox-extra", "busybox-multi"]


class World:
    """What all cases of a run share: bases, the local server, the adapter."""

    def __init__(self, args, adapter):
        self.work = args.work or tempfile.mkdtemp(prefix="conform-")
        os.makedirs(self.work, exist_ok=True)
        self.keep = args.keep
        self.adapter = adapter
        self.basedir = os.path.join(self.work, "bases")
        self.digests = bases.make_all(self.basedir, args.busybox)
        self.httproot = os.path.join(self.work, "http")
        self.gitroot = os.path.join(self.work, "git")
        os.makedirs(self.httproot, exist_ok=True)
        os.makedirs(self.gitroot, exist_ok=True)
        self.server = serve.Server(self.httproot, self.gitroot, args.port)
        self.reg = self.server.addr
        self.bases = observe.Bases()
        with open(os.path.join(self.basedir, "busybox.sha256")) as f:
            self.bases.binary = f.read().strip().split(":")[1]
        self.refs = {}
        for n in STD:
            self.server.store.add_layout("conform/" + n, os.path.join(self.basedir, n))
            self.bases.add_layout(n, os.path.join(self.basedir, n))
            self.refs[n] = f"{self.reg}/conform/{n}:latest"
        self.lock = threading.Lock()

    def env(self):
        return {"addr": self.reg}

    def close(self):
        self.server.close()
        if not self.keep:
            shutil.rmtree(self.work, ignore_errors=True)


class CaseRun:
    def __init__(self, world, case, timeout):
        self.w, self.case, self.timeout = world, case, timeout
        self.dir = os.path.join(world.work, "cases", case.name)
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir)
        self.slug = re.sub(r"[^a-z0-9]+", "-", case.name.lower())
        self.nonce = "n" + uuid.uuid4().hex[:12]
        self.refs = dict(world.refs)
        self.layouts = {n: (os.path.join(world.basedir, n), world.digests[n]) for n in STD}
        self.base_trees = observe.Bases()
        self.base_trees.__dict__.update(world.bases.__dict__)
        self.base_trees.chains = dict(world.bases.chains)
        self.base_trees.by_token = dict(world.bases.by_token)
        self.classes = {}
        self.log = []
        self.git_commits = {}
        self.socks = []
        for name, (spec, layers) in case.custom_bases().items():
            out = os.path.join(self.dir, "bases", name)
            tars = [cases.layer_tar(layers[i], self.subst) for i in sorted(layers)]
            self.layouts[name] = (out, bases.make_custom(out, world.basedir, spec, tars))
            repo = f"conform/{self.slug}/{name.lower()}"
            world.server.store.add_layout(repo, out, in_memory=True)
            self.refs[name] = f"{world.reg}/{repo}:latest"
            self.base_trees.add_layout(name, out)

    # -- tokens -----------------------------------------------------------
    def token(self, m):
        t = m.group(1)
        if t in self.refs:
            if self.w.adapter.uses_contexts_for_bases:
                return f"conform.test/{t}"
            return self.refs[t]
        if t.startswith("digest:"):
            return self.layouts[t[7:]][1]
        if t.startswith("repo:"):
            return self.refs[t[5:]].rsplit(":", 1)[0]
        if t == "http":
            return f"http://{self.w.reg}/{self.slug}"
        if t == "git":
            return f"http://{self.w.reg}/git/{self.slug}"
        if t.startswith("commit:"):
            return self.git_commits.get(t[7:], "0" * 40)
        if t.startswith("x:"):
            return "x" * int(t[2:])
        if t == "registry":
            return self.w.reg
        if t == "nonce":
            return self.nonce
        if t == "case":
            return self.dir
        return m.group(0)

    def subst(self, s):
        return re.sub(r"\{\{([A-Za-z0-9:_.-]+)\}\}", self.token, s)

    def norm(self, s):
        """Undo the substitutions in observed strings."""
        for n, ref in self.refs.items():
            s = s.replace(ref, "{{" + n + "}}").replace(f"conform.test/{n}", "{{" + n + "}}")
        for n, c in self.git_commits.items():
            s = s.replace(c, "{{commit:" + n + "}}")
        s = s.replace(f"http://{self.w.reg}/{self.slug}", "{{http}}")
        s = s.replace(f"http://{self.w.reg}/git/{self.slug}", "{{git}}")
        s = s.replace(self.nonce, "{{nonce}}").replace(self.w.reg, "{{registry}}")
        s = re.sub(r"x{100,}", lambda m: "{{x:%d}}" % len(m.group(0)), s)
        return s

    # -- one step -----------------------------------------------------------
    def prepare(self, step):
        groups = {}
        for e in step.entries:
            if e.path.startswith("@base/"):
                continue
            if e.path.startswith("@"):
                top, _, rel = e.path.partition("/")
                groups.setdefault(top[1:], []).append((rel, e))
            else:
                groups.setdefault("ctx", []).append((e.path, e))
        cdir = os.path.join(self.dir, "ctx")
        if "http" in groups:
            cases.write_tree(os.path.join(self.w.httproot, self.slug), groups.pop("http"), self.subst)
        if "git" in groups:
            repos = {}
            for rel, e in groups.pop("git"):
                r, _, p = rel.partition("/")
                repos.setdefault(r, []).append((p, e))
            for r, rows in repos.items():
                path = os.path.join(self.w.gitroot, self.slug, r)
                serve.make_git_repo(path, lambda d: cases.write_tree(d, rows, self.subst))
                self.git_commits[r] = subprocess.run(
                    ["git", "-C", path, "rev-parse", "HEAD"], stdout=subprocess.PIPE, text=True,
                    env=dict(os.environ, **serve.GIT_ENV)).stdout.strip()
        cases.write_tree(cdir, groups.pop("ctx", []), self.subst)
        for g, rows in groups.items():     # @outside, @ctx2, ... named by {{case}}/NAME
            cases.write_tree(os.path.join(self.dir, g), rows, self.subst)

    def request(self, step, i):
        r = adapters.Request()
        r.workdir = os.path.join(self.dir, "tmp")
        os.makedirs(r.workdir, exist_ok=True)
        r.context = os.path.join(self.dir, "ctx")
        r.file = self.subst(step.get("file", "Dockerfile"))
        df = os.path.join(r.context, r.file)
        try:
            with open(df, "rb") as f:
                r.has_syntax = bool(re.search(rb"^(#|//)\s*syntax\s*=|\"syntax\"", f.read(4096),
                                              re.M | re.I))
        except OSError:
            pass
        S = self.subst
        r.target = step.get("target")
        r.build_args = [S(a) for a in step.many("build-arg")]
        r.labels = [S(a) for a in step.many("label")]
        r.add_hosts, r.ulimits = step.many("add-host"), step.many("ulimit")
        for s in step.many("secret"):
            name, _, text = s.partition("=")
            p = os.path.join(self.dir, f"secret-{name}")
            text = S(text)
            with open(p, "w") as f:
                f.write(json.loads(text) if text.startswith('"') else text)
            r.secrets.append((name, p))
        for e in step.many("env"):
            k, _, v = e.partition("=")
            r.env[k] = S(v)
        for s in step.many("secret-env"):
            name, _, rest = s.partition("=")
            var, _, val = rest.partition("=")
            r.env[var] = S(val)
            r.secret_envs.append((name, var))
        for s in step.many("ssh"):
            r.ssh.append(f"{s}={self.agent(s)}")
        for c in step.many("context"):
            name, _, val = c.partition("=")
            name = S(name)
            kind, _, v = val.partition(":")
            if kind == "dir":
                v = os.path.join(self.dir, v)
                os.makedirs(v, exist_ok=True)
                r.contexts.append((name, "dir", v))
            elif kind == "oci":
                r.contexts.append((name, "oci", self.layouts[v] + (self.refs[v],)))
            elif kind == "image":
                r.contexts.append((name, "image", self.refs.get(v) or S(v)))
            elif kind == "url":
                r.contexts.append((name, "url", S(v)))
            else:
                raise cases.CaseError(f"{self.case.name}: bad context {c!r}")
        if self.w.adapter.uses_contexts_for_bases:
            for n, lay in self.layouts.items():
                r.contexts.append((f"conform.test/{n}", "oci", lay + (self.refs[n],)))
        if step.get("platform"):
            r.platforms = step.get("platform").split(",")
        r.no_cache = step.get("no-cache") == "true"
        r.no_cache_filter = step.many("no-cache-filter")
        r.network, r.shm_size = step.get("network"), step.get("shm-size")
        r.hostname = step.get("hostname")
        r.allow = step.many("allow")
        r.cache_from = [S(c) for c in step.many("cache-from")]
        r.cache_to = [S(c) for c in step.many("cache-to")]
        parts = step.get("output", "oci").split(",")
        r.output, r.output_opts = parts[0], [S(p) for p in parts[1:]]
        r.dest = os.path.join(self.dir, f"out{i}")
        if r.output == "push":
            r.dest = f"{self.w.reg}/pushed/{self.slug}:s{i}"
        if r.output in ("oci", "docker", "tar"):
            r.dest += ".tar"
        r.raw_blobs = "mediatypes" in self.case.checks()
        r.tag = f"conform.test/{self.slug}:s{i}"
        r.timeout = self.timeout
        return r

    def agent(self, name):
        p = os.path.join(tempfile.mkdtemp(prefix="cf"), "agent")   # socket paths must be short
        s = socket.socket(socket.AF_UNIX)
        s.bind(p)
        s.listen(4)
        self.socks.append((s, p))
        return p

    def run(self):
        opts = self.case.opts
        mt = [g for line in opts.get("mtime", []) for g in line.split()]
        vol = [g for line in opts.get("volatile", []) for g in line.split()]
        ign = [g for line in opts.get("ignore", []) for g in line.split()]
        match = lambda pats: lambda p: any(fnmatch.fnmatchcase("/" + p, g) for g in pats)
        case_opts = (match(mt), match(vol), self.case.checks(), match(ign))
        out = {"steps": []}
        self.seconds = 0.0
        for i, step in enumerate(self.case.steps, 1):
            self.prepare(step)
            req = self.request(step, i)
            res = self.w.adapter.build(req)
            self.seconds += res.seconds
            self.log.append(f"$ {' '.join(res.cmd)}\n[rc {res.rc}, {res.seconds:.2f}s]\n{res.output}")
            o = {"outcome": "ok" if res.rc == 0 else "error"}
            if res.rc == 0:
                if req.output in ("local", "tar"):
                    tree = observe.read_dir_tree(req.dest) if req.output == "local" \
                        else observe.read_tar_tree(req.dest)
                    o["tree"] = self.tree_facts(tree, case_opts)
                else:
                    reg = None
                    if req.output == "push":
                        reg = (self.w.server.store, f"pushed/{self.slug}", f"s{i}")
                    ims = observe.load_images(res.image, reg)
                    o["images"] = sorted((observe.image_facts(
                        im, self.base_trees, self.norm, case_opts, self.classes) for im in ims),
                        key=lambda f: f["platform"])
            elif step.get("error") or step.get("errpos"):
                for key, name, text in (("error", "message", res.error),
                                        ("errpos", "errpos", res.output)):
                    if step.get(key):
                        o[name] = bool(re.search(self.subst(step.get(key)), text, re.I | re.S))
            elif res.rc == 124:
                o["outcome"] = "timeout"
            out["steps"].append(o)
        for s, p in self.socks:
            s.close()
            shutil.rmtree(os.path.dirname(p), ignore_errors=True)
        return out

    def tree_facts(self, tree, case_opts):
        want_mtime, volatile, _, ignore = case_opts
        for p in [p for p in tree.nodes if ignore(p)]:
            del tree.nodes[p]
        bb = tree.nodes.get("bin/busybox")
        token = "busybox" if bb is not None and bb.sha == self.w.bases.binary else "scratch"
        base = self.base_trees.tree(token)
        return {"base": token, "fs": observe.tree_facts(
            tree, base, self.base_trees, self.norm, want_mtime, volatile, self.classes)}


def check_expectation(case, obs):
    """Does an observation meet what the author of the case wrote down?"""
    bad = []
    for i, (s, o) in enumerate(zip(case.steps, obs["steps"]), 1):
        want = s.get("expect", "error" if s.get("error") else "ok")
        if o["outcome"] != want:
            bad.append(f"step {i}: expected {want}, the reference says {o['outcome']}")
        elif o.get("message") is False:
            bad.append(f"step {i}: error text lacks {s.get('error')!r}")
        elif o.get("errpos") is False:
            bad.append(f"step {i}: error text lacks position {s.get('errpos')!r}")
    return bad


def golden_path(args, case):
    return os.path.join(args.golden, case.name + ".json")


def run_case(world, case, args):
    t0 = time.time()
    rec = {"case": case.name, "area": case.area, "tags": case.tags,
           "fails": all(s.get("expect", "error" if s.get("error") else "ok") == "error"
                        for s in case.steps)}
    cr = None
    try:
        cr = CaseRun(world, case, args.timeout)
        rec["obs"] = cr.run()
        rec["build_seconds"] = round(cr.seconds, 3)
        rec["binding"] = cr.base_trees
    except Exception as ex:     # a broken image is a failure of the builder under test
        rec["crash"] = f"{type(ex).__name__}: {ex}"
        rec["trace"] = traceback.format_exc()
    rec["seconds"] = round(time.time() - t0, 3)
    rec["log"] = "\n".join(cr.log) if cr else ""
    if cr and not args.keep:
        shutil.rmtree(cr.dir, ignore_errors=True)
    return rec


def select(args):
    pats = args.pattern or ["*"]
    only = lambda n: any(fnmatch.fnmatch(n, p) or n.startswith(p.rstrip("/") + "/") or n == p
                         for p in pats)
    sel = cases.load(args.cases, only)
    if args.tag:
        sel = [c for c in sel if set(args.tag) & set(c.tags)]
    if args.not_tag:
        sel = [c for c in sel if not set(args.not_tag) & set(c.tags)]
    if args.shard:
        i, n = (int(x) for x in args.shard.split("/"))
        sel = [c for k, c in enumerate(sel) if k % n == i - 1]
    return sel


def read_differences(path):
    """Case -> reason, of a file with lines 'CASE: reason'; empty lines and # comments are skipped."""
    listed = {}
    with open(path) as f:
        for n, line in enumerate(f, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, sep, reason = line.partition(": ")
            if not sep or not reason.strip():
                raise SystemExit(f"{path}:{n}: not 'CASE: reason': {line!r}")
            if name in listed:
                raise SystemExit(f"{path}:{n}: {name} is listed twice")
            listed[name] = reason.strip()
    return listed


def read_rungs(path, rung):
    """(case -> reason, case -> regular expression) for a rung, of a file with lines 'CASE: RUNG[,RUNG...]: reason', after which
    an indented 'error: REGEX' may follow: what the builder then has to say."""
    listed, errors, seen, name = {}, {}, set(), None
    with open(path) as f:
        for n, line in enumerate(f, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if line[0].isspace():
                key, sep, regex = text.partition(": ")
                if key != "error" or not sep or name is None:
                    raise SystemExit(f"{path}:{n}: not 'error: REGEX' below a case: {text!r}")
                if name in listed and mine:
                    errors[name] = regex
                continue
            name, _, rest = text.partition(": ")
            rungs, sep, reason = rest.partition(": ")
            if not sep or not reason.strip():
                raise SystemExit(f"{path}:{n}: not 'CASE: RUNG[,RUNG...]: reason': {text!r}")
            mine = rung in rungs.split(",")
            for r in rungs.split(","):
                if (name, r) in seen:
                    raise SystemExit(f"{path}:{n}: {name} is listed twice for {r}")
                seen.add((name, r))
            if mine:
                listed[name] = reason.strip()
    return listed, errors


def apply_differences(args, rec):
    """A listed case must differ, and say what is listed: then it counts as passed. One that does not is a failure. One that has to RUN
    something where that is refused is no failure, if it says so."""
    if rec["case"] not in args.listed:
        if args.refused and rec["status"] == "fail" and not rec.get("crash") and re.search(args.refused, rec.get("log", "")):
            rec["status"] = "refused"
        return
    regex = args.errors.get(rec["case"])
    if rec["status"] == "fail" and not rec.get("crash"):
        if regex and not re.search(regex, rec.get("log", "")):
            rec["notes"] = [f"does not say {regex!r}"]
        else:
            rec["status"] = "differs"
    elif rec["status"] == "pass":
        rec["status"] = "fail"
        rec["notes"] = [f"no longer differs: remove it from {args.differences} or RUNGS"]


def do_run(args, record=False):
    opts = dict(o.split("=", 1) for o in args.opt)
    args.listed, args.errors = {}, {}
    if args.differences and not record:
        args.listed = read_differences(args.differences)
        if args.rung:
            more, args.errors = read_rungs(args.rungs, args.rung)
            args.listed.update(more)
        unknown = set(args.listed) - {c.name for c in cases.load(args.cases, lambda n: True)}
        if unknown:
            raise SystemExit(f"{args.differences}: no such case: {', '.join(sorted(unknown))}")
    adapter = adapters.ADAPTERS[args.adapter](opts)
    sel = select(args)
    world = World(args, adapter)
    adapter.start(world.env())
    results = []
    t0 = time.time()
    try:
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as ex:
            futs = {ex.submit(run_case, world, c, args): c for c in sel}
            for f in concurrent.futures.as_completed(futs):
                c, rec = futs[f], f.result()
                (judge_record if record else judge)(args, c, rec)
                apply_differences(args, rec)
                rec.pop("binding", None)
                results.append(rec)
                show_result(args, rec)
    finally:
        adapter.stop()
        world.close()
    wall = time.time() - t0
    return summary(args, adapter, results, wall, record)


def judge_record(args, case, rec):
    if "crash" in rec:
        rec["status"], rec["notes"] = "crash", [rec["crash"]]
        return
    bad = check_expectation(case, rec["obs"])
    if bad:
        rec["status"], rec["notes"] = "unexpected", bad
        if not args.force:
            return
    path = golden_path(args, case)
    gold = {"case": case.name, "case_sha": case.sha, "reference": args.reference, **rec["obs"]}
    text = json.dumps(gold, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
    old = None
    if os.path.exists(path):
        with open(path) as f:
            old = f.read()
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    if not bad:
        strip = lambda s: re.sub(r'"(case_sha|reference)": "[^"]*"', "", s)
        rec["status"] = "recorded" if old is None or strip(old) != strip(text) else "same"


def judge(args, case, rec):
    path = golden_path(args, case)
    if "crash" in rec:
        rec["status"], rec["diffs"] = "fail", [["outcome", "harness: " + rec["crash"]]]
        return
    if not os.path.exists(path):
        rec["status"] = "nogolden"
        return
    with open(path) as f:
        gold = json.load(f)
    if gold.get("case_sha") != case.sha:
        rec["stale"] = True
    diffs = compare.compare(gold, rec["obs"], rec["binding"])
    rec["diffs"] = [[d.aspect, d.line()] for d in diffs]
    hard = [d for d in diffs if d.aspect in compare.HARD]
    rec["status"] = "fail" if hard else "pass"


def show_result(args, rec):
    st = rec["status"]
    soft = sorted({a for a, _ in rec.get("diffs", []) if a in compare.SOFT})
    if st in GOOD and not args.verbose:
        return
    tail = f"  (soft: {', '.join(soft)})" if soft else ""
    print(f"{st.upper():10} {rec['case']}  {rec['seconds']:.1f}s{tail}"
          + ("  [golden is older than the case]" if rec.get("stale") else ""))
    for n in rec.get("notes", []):
        print("    " + n)
    if st == "differs":
        print("    as listed: " + args.listed[rec["case"]])
    shown = [l for a, l in rec.get("diffs", []) if a in compare.HARD or args.verbose > 1]
    for l in shown[:args.max_diffs]:
        print("    " + l)
    if len(shown) > args.max_diffs:
        print(f"    ... {len(shown) - args.max_diffs} more")
    if (args.log or st in ("unexpected", "crash")) and st not in GOOD:
        for l in rec["log"].splitlines()[-args.log_lines:]:
            print("      | " + l)
        if "trace" in rec and args.verbose:
            print(rec["trace"])
    sys.stdout.flush()


def summary(args, adapter, results, wall, record):
    results.sort(key=lambda r: r["case"])
    areas = {}
    for r in results:
        a = areas.setdefault(r["area"], {"cases": 0, "pass": 0, "seconds": 0.0,
                                         **{s: 0 for s in compare.SOFT}})
        a["cases"] += 1
        a["seconds"] = round(a["seconds"] + r["seconds"], 2)
        if r["status"] in GOOD:
            a["pass"] += 1
        bad = {x for x, _ in r.get("diffs", [])}
        for s in compare.SOFT:
            a[s] += 0 if s in bad or r["status"] == "nogolden" else 1
    total = {k: sum(a[k] for a in areas.values()) for k in ["cases", "pass"] + compare.SOFT}
    print()
    head = "recorded" if record else "passed"
    print(f"{'area':14}{'cases':>6}{head:>9}{'%':>5}   " + "".join(f"{s:>9}" for s in compare.SOFT))
    for n in sorted(areas) + ["TOTAL"]:
        a = total if n == "TOTAL" else areas[n]
        pct = 100 * a["pass"] // max(a["cases"], 1)
        print(f"{n:14}{a['cases']:>6}{a['pass']:>9}{pct:>4}%   "
              + "".join(f"{a[s]:>9}" for s in compare.SOFT))
    groups = {"must build": lambda r: not r["fails"], "must fail": lambda r: r["fails"],
              "quirks": lambda r: "quirk" in r["tags"],
              "all but quirks": lambda r: "quirk" not in r["tags"]}
    split = {}
    for name, want in groups.items():
        rs = [r for r in results if want(r)]
        split[name] = [sum(r["status"] in GOOD for r in rs), len(rs)]
    print("; ".join(f"{n}: {p}/{t}" for n, (p, t) in split.items()))
    print(f"{wall:.1f}s wall, adapter {adapter.describe()}, {args.jobs} jobs"
          + ("; soft columns count cases without a difference in that aspect" if not record else ""))
    if args.json:
        rep = {"adapter": adapter.describe(), "options": args.opt, "wall_seconds": round(wall, 2),
               "total": total, "groups": split, "areas": areas,
               "cases": [{k: v for k, v in r.items() if k not in ("obs", "binding", "trace")
                          and (k != "log" or r["status"] not in GOOD)}
                         for r in results]}
        with open(args.json, "w") as f:
            json.dump(rep, f, indent=1, sort_keys=True)
            f.write("\n")
    differ = [r["case"] for r in results if r["status"] == "differs"]
    if differ:
        print(f"{len(differ)} of the passed differ as listed: {', '.join(differ)}")
    refused = sum(r["status"] == "refused" for r in results)
    if refused:
        print(f"{refused} of the passed are refused, as they RUN something")
    print(f"{total['pass']} {head}, {total['cases'] - total['pass']} failed")
    return 0 if total["pass"] == total["cases"] else 1


def do_list(args):
    for c in select(args):
        print(f"{c.name:40} {c.opts['desc']}" + (f"  [{' '.join(c.tags)}]" if c.tags else ""))
    return 0


def do_show(args):
    for c in select(args):
        with open(c.path, errors="surrogateescape") as f:
            print(f"### {c.name}\n{f.read()}")
        p = golden_path(args, c)
        if os.path.exists(p):
            with open(p) as f:
                print(f"### golden\n{f.read()}")
    return 0


def do_new(args):
    """Split a pack ('=== area/name' lines) on stdin or in files into case files."""
    texts = [open(p, errors="surrogateescape", newline="").read() for p in args.pattern] \
        or [sys.stdin.read()]
    n = 0
    for t in texts:
        parts = re.split(r"(?m)^=== (\S+)[ \t]*\n", t)
        for name, body in zip(parts[1::2], parts[2::2]):
            if body.endswith("\n\n"):
                body = body[:-1]
            cases.Case(name, "", body)
            p = os.path.join(args.cases, name + ".case")
            os.makedirs(os.path.dirname(p), exist_ok=True)
            with open(p, "w", errors="surrogateescape", newline="") as f:
                f.write(body)
            n += 1
    print(f"{n} cases written")
    return 0


def main(argv=None):
    ap = argparse.ArgumentParser(prog="conform", description=__doc__)
    ap.add_argument("command", choices=["run", "record", "list", "show", "new"])
    ap.add_argument("pattern", nargs="*", help="case names or globs, e.g. copy or 'copy/link-*'")
    ap.add_argument("--adapter", default="buildctl", choices=sorted(adapters.ADAPTERS))
    ap.add_argument("--opt", action="append", default=[], metavar="K=V", help="adapter option")
    ap.add_argument("--cases", default=os.path.join(HERE, "cases"))
    ap.add_argument("--golden", default=os.path.join(HERE, "golden"))
    ap.add_argument("--differences", metavar="FILE",
                    help="lines 'CASE: reason': these must differ, and do not count as failed")
    ap.add_argument("--rung", help="also the differences of this rung, from --rungs")
    ap.add_argument("--rungs", metavar="FILE", default=os.path.join(HERE, "RUNGS"),
                    help="lines 'CASE: RUNG,...: reason', and below one 'error: REGEX'")
    ap.add_argument("--refused", metavar="REGEX", help="a builder that says this cannot RUN anything: no failure")
    ap.add_argument("--reference", default="unknown", help="version noted in goldens (record)")
    ap.add_argument("--tag", action="append", default=[])
    ap.add_argument("--not-tag", action="append", default=[])
    ap.add_argument("--shard", help="i/n, 1-based")
    ap.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 2)
    ap.add_argument("--timeout", type=float, default=120)
    ap.add_argument("--port", type=int, default=0)
    ap.add_argument("--busybox")
    ap.add_argument("--work", help="work directory (default: a temporary one)")
    ap.add_argument("--keep", action="store_true", help="keep contexts and outputs")
    ap.add_argument("--force", action="store_true", help="record even what the case did not expect")
    ap.add_argument("--json", metavar="FILE", help="write a report")
    ap.add_argument("-v", "--verbose", action="count", default=0)
    ap.add_argument("--log", action="store_true", help="show the builder's output of failures")
    ap.add_argument("--log-lines", type=int, default=25)
    ap.add_argument("--max-diffs", type=int, default=12)
    args = ap.parse_intermixed_args(argv)
    os.umask(0o022)
    return {"run": do_run, "record": lambda a: do_run(a, record=True), "list": do_list,
            "show": do_show, "new": do_new}[args.command](args)
