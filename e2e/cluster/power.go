package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/filelock"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
)

// powerLimit bounds the cleaning up after a machine's processes, which die at once
// unless the kernel is busy with them.
const powerLimit = 30 * time.Second

// A Node is one node of a cluster.
type Node struct {
	Name       string
	IP         string
	PID        int // of its first process, on the host; 0 while it is off
	PoweredOn  bool
	NetworkCut bool
}

// Nodes lists the cluster's nodes, in order of their numbers.
func (c *Cluster) Nodes() ([]Node, error) {
	var nodes []Node
	for number := 1; number <= c.state.Nodes; number++ {
		name := nodeName(number)
		m, err := c.paths.loadMachine(name)
		if err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		n := Node{Name: name, IP: nodeAddress(number).Addr().String(), NetworkCut: m.NetworkCut}
		if m.Process.Alive() {
			n.PID, n.PoweredOn = m.Process.PID, true
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// PowerOff cuts a node's power: from one moment to the next nothing runs on it and
// nothing leaves it. What lies in its memory, with /run and /tmp, is lost; its disk
// stays. It is no error if the node is off.
func (c *Cluster) PowerOff(ctx context.Context, node string) error {
	return c.withNode(ctx, node, func(_ int, m *machineState) error {
		if err := c.halt(ctx, node, m.Process); err != nil {
			return fmt.Errorf("power off %s: %w", node, err)
		}
		*m = machineState{BootID: m.BootID, NetworkCut: m.NetworkCut}
		return nil
	})
}

// PowerOn boots a node that is off, with its old disk and a new boot ID, and returns
// when its services run. It is no error if the node is on.
func (c *Cluster) PowerOn(ctx context.Context, node string) error {
	err := c.withNode(ctx, node, func(number int, m *machineState) error {
		if m.Process.Alive() {
			return nil
		}
		// Its first process may have been killed without PowerOff: that is a power cut too.
		if err := c.halt(ctx, node, m.Process); err != nil {
			return fmt.Errorf("power on %s: %w", node, err)
		}
		*m = machineState{NetworkCut: m.NetworkCut}
		// Newer kernels put a filter back when a cable of the same name is plugged in.
		if err := c.nft(ctx, filterOf(node, nil)); err != nil {
			return fmt.Errorf("power on %s: %w", node, err)
		}
		return c.bootNodeLocked(ctx, c.nodeSpec(number), number, m)
	})
	if err != nil {
		return err
	}
	return c.waitForServices(ctx, node)
}

// CutNetwork takes a node off the network while everything on it runs on. Its network
// stays cut when its power goes and comes back.
func (c *Cluster) CutNetwork(ctx context.Context, node string) error {
	return c.setNetwork(ctx, node, true)
}

// HealNetwork takes back CutNetwork.
func (c *Cluster) HealNetwork(ctx context.Context, node string) error {
	return c.setNetwork(ctx, node, false)
}

func (c *Cluster) setNetwork(ctx context.Context, node string, cut bool) error {
	return c.withNode(ctx, node, func(_ int, m *machineState) error {
		m.NetworkCut = cut
		if !m.Process.Alive() {
			return nil
		}
		return netns.SetPort(c.paths.netns(controlPlane), node, !cut)
	})
}

// withNode runs f for one node alone and keeps what f makes of the node's state.
func (c *Cluster) withNode(ctx context.Context, node string, f func(number int, m *machineState) error) error {
	number, err := c.nodeNumber(node)
	if err != nil {
		return err
	}
	running, err := filelock.WaitShared(ctx, c.paths.lock())
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	defer running.Release()
	if !c.alive() {
		return fmt.Errorf("cluster %s: %w", c.config.Name, ErrNotRunning)
	}
	lock, err := filelock.Wait(ctx, c.paths.machineLock(node), func(string) {})
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	defer lock.Release()
	m, err := c.paths.loadMachine(node)
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	err = f(number, &m)
	return errors.Join(err, write(c.paths.machineState(node), m))
}

func (c *Cluster) nodeNumber(node string) (int, error) {
	number, err := strconv.Atoi(strings.TrimPrefix(node, "n"))
	if err != nil || number < 1 || number > c.state.Nodes || nodeName(number) != node {
		return 0, fmt.Errorf("cluster %s has no node %q: its nodes are n1 to n%d", c.config.Name, node, c.state.Nodes)
	}
	return number, nil
}

// bootNode boots a node whose disk is prepared.
func (c *Cluster) bootNode(ctx context.Context, s machine.Spec, number int) error {
	var m machineState
	if err := c.bootNodeLocked(ctx, s, number, &m); err != nil {
		return err
	}
	return write(c.paths.machineState(s.Name), m)
}

func (c *Cluster) bootNodeLocked(ctx context.Context, s machine.Spec, number int, m *machineState) error {
	if err := netns.Create(s.NetNS); err != nil {
		return err
	}
	if err := netns.Plug(c.paths.netns(controlPlane), s.NetNS, gateway.Addr(), cable(number)); err != nil {
		return err
	}
	if m.NetworkCut {
		if err := netns.SetPort(c.paths.netns(controlPlane), s.Name, false); err != nil {
			return err
		}
	}
	return c.start(ctx, s, nil, m)
}

// boot boots the control plane, whose network is there.
func (c *Cluster) boot(ctx context.Context, s machine.Spec, listener *os.File) error {
	var m machineState
	if err := c.start(ctx, s, listener, &m); err != nil {
		return err
	}
	return write(c.paths.machineState(s.Name), m)
}

// start starts a machine's first process in a fresh cgroup.
func (c *Cluster) start(ctx context.Context, s machine.Spec, listener *os.File, m *machineState) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	group, err := c.group(s.Name)
	if err != nil {
		return err
	}
	if err := group.Create(); err != nil {
		return err
	}
	if m.BootID, err = newBootID(); err != nil {
		return err
	}
	s.BootID = m.BootID
	m.Process, err = machine.Boot(s, group, listener)
	return err
}

// halt ends a machine: first its network, so that not even the kernel's farewells for
// dying connections get out, then everything else.
func (c *Cluster) halt(ctx context.Context, name string, process machine.Process) error {
	ctx, cancel := context.WithTimeout(ctx, powerLimit)
	defer cancel()
	if name != controlPlane {
		if err := netns.SetPort(c.paths.netns(controlPlane), name, false); err != nil {
			return err
		}
	}
	if err := process.Kill(); err != nil {
		return err
	}
	group, err := c.group(name)
	if err != nil {
		return err
	}
	return errors.Join(group.Destroy(ctx), netns.Remove(c.paths.netns(name)))
}

// newBootID makes a random UUID, as the kernel does at boot.
func newBootID() (string, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make boot ID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4, variant 1
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}
