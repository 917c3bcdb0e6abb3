package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/machine"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/netns"
)

// ControlPlane is the name of the machine with etcd and the API server, for NodeExec.
const ControlPlane = controlPlane

// APIPort is where the API server listens on the control plane's machine.
const APIPort = 6443

// ControlPlaneAddress is the control plane's machine as the nodes and pods see it.
func (c *Cluster) ControlPlaneAddress() netip.Addr { return gateway.Addr() }

// NodePrefixes are the addresses of a node and of the pods on it.
func (c *Cluster) NodePrefixes(node string) ([]netip.Prefix, error) {
	number, err := c.nodeNumber(node)
	if err != nil {
		return nil, err
	}
	address := nodeAddress(number).Addr()
	return []netip.Prefix{netip.PrefixFrom(address, address.BitLen()), podRange(number)}, nil
}

// NodeDisk is the folder on the host with what the node has written to its disk, as
// var/log/pods. It can be read whatever state the node is in.
func (c *Cluster) NodeDisk(node string) string {
	return filepath.Join(c.paths.disk(node), "upper")
}

// ListenPacket opens a socket on the control plane's machine, on which a program on the
// host hears nodes and pods. It has the form of net.ListenPacket.
func (c *Cluster) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := netns.Do(c.paths.netns(controlPlane), func() (err error) {
		conn, err = (&net.ListenConfig{}).ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}

// SharedFolder is a folder on every node that is the same on all of them, and outlives
// their power: storage on the network, as far as a volume of kind hostPath can be.
const SharedFolder = machine.Shared

// Direction is one way through a node's cable, or both.
type Direction int

// The directions of traffic, as seen from the node.
const (
	Both     Direction = iota
	Sent               // by the node and its pods
	Received           // by the node and its pods
)

// A Drop is traffic that gets lost in a node's cable without a word.
type Drop struct {
	Direction Direction
	// With are the far ends; none means everybody.
	With []netip.Prefix
	// Port narrows it down to a TCP port of the far end; 0 means all traffic.
	Port uint16
}

// DropTraffic has a node's cable lose traffic, in place of what it lost before; without
// drops it passes everything again. It lasts until the node's next boot.
func (c *Cluster) DropTraffic(ctx context.Context, node string, drops ...Drop) error {
	return c.withNode(ctx, node, func(_ int, m *machineState) error {
		if !m.Process.Alive() {
			return fmt.Errorf("drop traffic of %s: the node is off, and so is its cable: power it on first", node)
		}
		if err := c.nft(ctx, filterOf(node, drops)); err != nil {
			return fmt.Errorf("drop traffic of %s: %w", node, err)
		}
		return nil
	})
}

// filterOf is the filter at a node's port on the switch, for nft. What comes in there
// was sent by the node, and what goes out is received by it.
func filterOf(node string, drops []Drop) string {
	var b strings.Builder
	table := "netdev drop-" + node
	// Added first, so that it can be deleted in any case.
	fmt.Fprintf(&b, "add table %s\ndelete table %s\n", table, table)
	if len(drops) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "add table %s\n", table)
	for _, way := range []struct {
		hook      string
		direction Direction
		far, port string
	}{{"ingress", Sent, "daddr", "dport"}, {"egress", Received, "saddr", "sport"}} {
		fmt.Fprintf(&b, "add chain %s %s { type filter hook %s device %q priority 0; }\n", table, way.hook, way.hook, node)
		for _, drop := range drops {
			if drop.Direction != Both && drop.Direction != way.direction {
				continue
			}
			match := ""
			if len(drop.With) > 0 {
				prefixes := make([]string, len(drop.With))
				for i, prefix := range drop.With {
					prefixes[i] = prefix.String()
				}
				match += fmt.Sprintf("ip %s { %s } ", way.far, strings.Join(prefixes, ", "))
			}
			if drop.Port != 0 {
				match += fmt.Sprintf("tcp %s %d ", way.port, drop.Port)
			}
			fmt.Fprintf(&b, "add rule %s %s %sdrop\n", table, way.hook, match)
		}
	}
	return b.String()
}

// nft changes the filters of the switch.
func (c *Cluster) nft(ctx context.Context, commands string) error {
	out, err := c.NodeExec(ctx, controlPlane, "nft", commands)
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Stall stops every process of a node at once, as when a virtual machine is not
// scheduled: nothing runs and nothing is answered, but the time goes on. The node's
// network is off meanwhile, as the kernel would answer for its processes.
func (c *Cluster) Stall(ctx context.Context, node string) error {
	return c.stall(ctx, node, true)
}

// Unstall lets a stalled node go on from where it was stopped.
func (c *Cluster) Unstall(ctx context.Context, node string) error {
	return c.stall(ctx, node, false)
}

func (c *Cluster) stall(ctx context.Context, node string, stalled bool) error {
	return c.withNode(ctx, node, func(_ int, m *machineState) error {
		if !m.Process.Alive() {
			return fmt.Errorf("stall %s: the node is off: power it on first", node)
		}
		group, err := c.group(node)
		if err != nil {
			return err
		}
		network := func() error { return netns.SetPort(c.paths.netns(controlPlane), node, !stalled && !m.NetworkCut) }
		if stalled {
			// From its last step on, nothing may get out.
			return errors.Join(network(), group.Freeze(ctx, true))
		}
		return errors.Join(network(), group.Freeze(ctx, false))
	})
}
