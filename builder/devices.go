package builder

import (
	"fmt"

	"github.com/strake-build/strake/builder/device"
	"github.com/strake-build/strake/runner"
)

// resolveDevices finds the devices that a RUN asks for. It is asked before anything is built: a device that is missing or
// not allowed fails the build at once.
func (p *planner) resolveDevices(w *runWork) (err error) {
	if len(w.run.Devices) == 0 {
		return nil
	}
	if p.devices == nil {
		if p.devices, err = device.Open(p.opt.Sandbox.DeviceFolders); err != nil {
			return err
		}
	}
	w.devices = p.devices
	requests := make([]device.Request, len(w.run.Devices))
	for i, d := range w.run.Devices {
		requests[i] = device.Request(d)
	}
	w.found, w.missing, err = p.devices.Resolve(requests, p.opt.Sandbox.Devices)
	return err
}

// deviceEdits is what the step's devices need.
func (w *runWork) deviceEdits() (device.Edits, error) {
	for _, name := range w.missing {
		w.warn(w.vertex, fmt.Sprintf("the device %q is not registered: the step runs without it", name))
	}
	if len(w.found) == 0 {
		return device.Edits{}, nil
	}
	return w.devices.Edits(w.found)
}

func deviceMounts(e device.Edits) []runner.Mount {
	var mounts []runner.Mount
	for _, m := range e.Mounts {
		if m.Tmpfs {
			mounts = append(mounts, runner.Mount{
				Type: runner.Tmpfs, Target: m.Target, ReadOnly: m.ReadOnly, NoExec: m.NoExec, Mode: m.Mode, Size: m.Size, UID: m.UID, GID: m.GID,
			})
			continue
		}
		mounts = append(mounts, runner.Mount{
			Type: runner.Bind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			NoSuid: m.NoSuid, NoDev: m.NoDev, NoExec: m.NoExec,
		})
	}
	return mounts
}

func deviceHooks(e device.Edits) []runner.Hook {
	var hooks []runner.Hook
	for _, h := range e.Hooks {
		hooks = append(hooks, runner.Hook{Kind: runner.HookKind(h.Name), Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
	}
	return hooks
}
