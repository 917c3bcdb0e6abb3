package netns

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The switch in the control plane's namespace, and a node's end of its cable.
const (
	bridgeName = "br0"
	uplinkName = "eth0"
)

// A Cable is a node's connection to the switch. Its port on the switch is named after the node.
type Cable struct {
	Node    string       // the node's name, at most 15 characters
	Address netip.Prefix // the node's address with the length of the shared subnet
	Pods    netip.Prefix // the node's pod addresses, routed to it
}

// SetUpSwitch turns the namespace held on path into the switch and router of a
// cluster, with the gateway's address. Traffic to services goes to the switch too, as
// without any route the kernel would drop it before kube-proxy's rules can rewrite it.
func SetUpSwitch(path string, gateway, services netip.Prefix) error {
	return Do(path, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = bridgeName
		// A bridge without an address of its own takes one from its ports, and would
		// change it whenever a node goes; the others' neighbour tables would be stale.
		bridge.HardwareAddr = macFor(bridgeName)
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("create switch: %w", err)
		}
		if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(gateway)}); err != nil {
			return fmt.Errorf("give the switch its address: %w", err)
		}
		if err := bringUp("lo", bridgeName); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(services)}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to services: %w", err)
		}
		if err := passUnseen(); err != nil {
			return err
		}
		return forwardPackets()
	})
}

// Plug connects the namespace held on nodePath to the switch in the one on switchPath.
func Plug(switchPath, nodePath string, gateway netip.Addr, c Cable) error {
	node, err := os.Open(nodePath)
	if err != nil {
		return fmt.Errorf("plug %s: %w", c.Node, err)
	}
	defer node.Close()
	err = Do(switchPath, func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("plug %s: find switch: %w", c.Node, err)
		}
		// The port of an earlier boot disappears some time after its namespace.
		if old, err := netlink.LinkByName(c.Node); err == nil {
			if err := netlink.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
				return fmt.Errorf("plug %s: remove old port: %w", c.Node, err)
			}
		}
		port := &netlink.Veth{
			LinkAttrs:        netlink.NewLinkAttrs(),
			PeerName:         uplinkName,
			PeerNamespace:    netlink.NsFd(node.Fd()),
			PeerHardwareAddr: macFor(c.Node),
		}
		port.Name = c.Node
		port.MasterIndex = bridge.Attrs().Index
		if err := netlink.LinkAdd(port); err != nil {
			return fmt.Errorf("plug %s: %w", c.Node, err)
		}
		if err := bringUp(c.Node); err != nil {
			return err
		}
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(c.Pods), Gw: c.Address.Addr().AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("route to pods of %s: %w", c.Node, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return Do(nodePath, func() error {
		uplink, err := netlink.LinkByName(uplinkName)
		if err != nil {
			return fmt.Errorf("configure %s: %w", c.Node, err)
		}
		if err := netlink.AddrAdd(uplink, &netlink.Addr{IPNet: ipNet(c.Address)}); err != nil {
			return fmt.Errorf("give %s its address: %w", c.Node, err)
		}
		if err := bringUp("lo", uplinkName); err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route from %s: %w", c.Node, err)
		}
		return forwardPackets()
	})
}

// SetPort switches a node's port on or off. A node whose port is off can neither send
// nor receive, as with a pulled cable. Switching off a port that is gone is no error.
func SetPort(switchPath, node string, on bool) error {
	return Do(switchPath, func() error {
		port, err := netlink.LinkByName(node)
		if err != nil {
			if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing && !on {
				return nil
			}
			return fmt.Errorf("find port of %s: %w", node, err)
		}
		if on {
			err = netlink.LinkSetUp(port)
		} else {
			err = netlink.LinkSetDown(port)
		}
		if err != nil {
			return fmt.Errorf("switch port of %s: %w", node, err)
		}
		return nil
	})
}

func bringUp(names ...string) error {
	for _, name := range names {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

// forwardPackets makes the calling thread's network namespace a router.
func forwardPackets() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}

// passUnseen has the calling thread's network namespace pass on what goes from port to port
// as a switch does. Where the host has br_netfilter, the control plane's connection tracking
// would otherwise see packets between nodes, and translate those of its own connections again.
func passUnseen() error {
	err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("pass on packets unseen: %w", err)
	}
	return nil
}

// macFor derives a hardware address that stays the same from boot to boot, as that of
// a real network card does.
func macFor(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	// 02: locally administered, unicast.
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
