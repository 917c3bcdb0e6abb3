package criu

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
)

const (
	// seizeSeconds is how long CRIU may try to stop the tasks.
	seizeSeconds = 5
	// logLevel has errors and warnings. More costs time with the tasks stopped.
	logLevel  = 2
	dumpLog   = "dump.log"
	dumpStats = "stats-dump"
)

// dumpOptions are the options of runc's own checkpoint, so that runc can restore
// it, but for those that cost time with the tasks stopped: the cgroup is
// frozen already, and connections are closed, or the network is silent already, instead
// of being locked.
func dumpOptions(c *container, images *os.File, connections bool) *rpc.CriuOpts {
	opts := &rpc.CriuOpts{
		Pid:               proto.Int32(int32(c.target.Pid)),
		ImagesDirFd:       proto.Int32(int32(images.Fd())),
		WorkDirFd:         proto.Int32(int32(images.Fd())),
		Root:              proto.String(c.state.Config.Rootfs),
		LogFile:           proto.String(dumpLog),
		LogLevel:          proto.Int32(logLevel),
		LeaveRunning:      proto.Bool(true),
		NotifyScripts:     proto.Bool(true),
		OrphanPtsMaster:   proto.Bool(true),
		FileLocks:         proto.Bool(true),
		ExtUnixSk:         proto.Bool(true),
		LinkRemap:         proto.Bool(true),
		GhostLimit:        proto.Uint32(preflight.GhostLimit),
		Timeout:           proto.Uint32(seizeSeconds),
		TcpClose:          proto.Bool(!connections),
		TcpEstablished:    proto.Bool(connections),
		TcpSkipInFlight:   proto.Bool(true),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		ManageCgroups:     proto.Bool(true),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		// CRIU lets the group go once it holds every task: its own code in
		// them could not run otherwise.
		FreezeCgroup: proto.String(c.group.Dir()),
		// The memory that the processes have for themselves stays out of the
		// images: what is new of it is read by us.
		LazyPages:  proto.Bool(true),
		ConfigFile: proto.String(dumpConfig),
	}
	if c.netNS != 0 {
		opts.External = append(opts.External, fmt.Sprintf("net[%d]:extRootNetNS", c.netNS))
	}
	for _, destination := range slices.Sorted(maps.Keys(c.external)) {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{
			Key: proto.String(destination), Val: proto.String(c.external[destination]),
		})
	}
	return opts
}

// dumpConfig is the configuration file that a dump is told of.
const dumpConfig = client.Folder + "/dump.conf"

// writeDumpConfig writes what CRIU's requests have no field for. A dump without
// the processes' memory ends by serving that memory, with the tasks stopped, to
// whoever connects, on all addresses of the node. With a socket of our own it
// serves nobody else, and the socket's end, or ours, ends it. It must run
// within Host.Run.
func writeDumpConfig() error {
	err := os.MkdirAll(client.Folder, 0o755)
	if err == nil {
		err = os.WriteFile(dumpConfig, fmt.Appendf(nil, "ps-socket %d\n", pagesDescriptor), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write CRIU's configuration for the dump: %w", err)
	}
	return nil
}
