package keep

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Guest is an address of another node at a pod of this one.
type Guest struct {
	// Address is the address.
	Address netip.Addr `json:"address"`
	// PodIP is the pod's own address.
	PodIP netip.Addr `json:"podIP"`
	// NetNS is the path of the pod's network namespace.
	NetNS string `json:"netNS"`
	// Source is the address of the node that the address belongs to.
	Source netip.Addr `json:"source"`
}

// Admit gives the pod the address. What is for it is dropped until Open. It may be called
// again; after an error Dismiss has to be.
func (g Guest) Admit() error {
	uplinkIndex, err := Neighbour(g.Source)
	if err != nil {
		return err
	}
	uplink, err := netlink.LinkByIndex(uplinkIndex)
	if err != nil {
		return fmt.Errorf("find the link to node address %s: %w", g.Source, err)
	}
	cable, err := Cable(g.PodIP)
	if err != nil {
		return err
	}
	if strict(uplink.Attrs().Name) {
		return fmt.Errorf("the node drops at %s what does not come by the way that the answer would take; set net.ipv4.conf.all.rp_filter to 0 or 2", uplink.Attrs().Name)
	}
	if err := g.Dismiss(); err != nil {
		return err
	}
	// What comes from the pod is answered by way of the source alone, which is no reason to drop it.
	if err := os.WriteFile(filterFile(cable.Attrs().Name), []byte("2"), 0); err != nil {
		return fmt.Errorf("let the pod send from %s: %w", g.Address, err)
	}
	for _, route := range []*netlink.Route{
		{Dst: single(g.Address), LinkIndex: cable.Attrs().Index, Scope: netlink.SCOPE_LINK},
		{LinkIndex: uplinkIndex, Gw: g.Source.AsSlice()},
	} {
		route.Table, route.Protocol = g.table(), protocol
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("make the routes of %s: %w", g.Address, err)
		}
	}
	out := g.rule(priorityOut, cable.Attrs().Name)
	out.Src = single(g.Address)
	closed := g.rule(priorityClosed, uplink.Attrs().Name)
	closed.Dst, closed.Type, closed.Table = single(g.Address), unix.FR_ACT_BLACKHOLE, 0
	for _, rule := range []*netlink.Rule{closed, out} {
		if err := netlink.RuleAdd(rule); err != nil {
			return fmt.Errorf("make the rules of %s: %w", g.Address, err)
		}
	}
	if err := g.leaveUntracked(uplink.Attrs().Index, cable.Attrs().Index); err != nil {
		return err
	}
	return g.inPod(func(pod *netlink.Handle) error {
		link, err := linkWith(pod, g.PodIP)
		if err == nil {
			err = pod.AddrReplace(link, &netlink.Addr{IPNet: single(g.Address)})
		}
		if err != nil {
			return fmt.Errorf("give the pod the address %s: %w", g.Address, err)
		}
		return nil
	})
}

// Open lets what is for the address through to the pod. It may be called again.
func (g Guest) Open() error {
	uplinkIndex, err := Neighbour(g.Source)
	if err != nil {
		return err
	}
	uplink, err := netlink.LinkByIndex(uplinkIndex)
	if err != nil {
		return fmt.Errorf("find the link to node address %s: %w", g.Source, err)
	}
	for _, from := range []string{uplink.Attrs().Name, "lo"} {
		in := g.rule(priorityIn, from)
		in.Dst = single(g.Address)
		if err := netlink.RuleAdd(in); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("let %s through to the pod: %w", g.Address, err)
		}
	}
	return nil
}

// Dismiss takes the address away, and all that was made for it. It may be called again, and
// when the pod has ended.
func (g Guest) Dismiss() error {
	var errs []error
	rules, err := netlink.RuleList(unix.AF_INET)
	errs = append(errs, err)
	for i := range rules {
		r := &rules[i]
		if r.Protocol == protocol && (is(r.Src, g.Address) || is(r.Dst, g.Address)) {
			errs = append(errs, deleteRule(r))
		}
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: g.table()}, netlink.RT_FILTER_TABLE)
	errs = append(errs, err)
	for i := range routes {
		errs = append(errs, netlink.RouteDel(&routes[i]))
	}
	errs = append(errs, g.trackAgain())
	err = g.inPod(func(pod *netlink.Handle) error {
		link, err := linkWith(pod, g.Address)
		if err != nil {
			return nil //nolint:nilerr // the pod does not have it
		}
		return pod.AddrDel(link, &netlink.Addr{IPNet: single(g.Address)})
	})
	if err != nil && !gone(err) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the address %s away: %w", g.Address, err)
	}
	return nil
}

// Connections is how many connections the pod has at the address; none when the pod has ended.
func (g Guest) Connections() (count int, err error) {
	err = g.inPod(func(pod *netlink.Handle) error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := pod.SocketDiagTCP(family)
			if err != nil {
				return fmt.Errorf("list the connections at %s: %w", g.Address, err)
			}
			for _, s := range sockets {
				local, _ := netip.AddrFromSlice(s.ID.Source)
				if local.Unmap() == g.Address && s.State != netlink.TCP_LISTEN && s.State != netlink.TCP_TIME_WAIT {
					count++
				}
			}
		}
		return nil
	})
	if err != nil && gone(err) {
		return 0, nil
	}
	return count, err
}

// table is the number of the routing table of the address: the address itself.
func (g Guest) table() int {
	four := g.Address.As4()
	return int(binary.BigEndian.Uint32(four[:]) & 0x7fffffff)
}

func (g Guest) rule(priority int, from string) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.IifName, rule.Table, rule.Protocol = unix.AF_INET, priority, from, g.table(), protocol
	return rule
}

// deleteRule names a rule by what tells it apart: the kernel lists more than it takes.
func deleteRule(r *netlink.Rule) error {
	named := netlink.NewRule()
	named.Family, named.Priority, named.IifName, named.Src, named.Dst, named.Protocol = unix.AF_INET, r.Priority, r.IifName, r.Src, r.Dst, protocol
	if err := netlink.RuleDel(named); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// inPod calls f with the pod's network.
func (g Guest) inPod(f func(*netlink.Handle) error) error {
	file, err := openNetwork(g.NetNS)
	if err != nil {
		return err
	}
	defer file.Close()
	pod, err := netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("enter the pod's network %s: %w", g.NetNS, err)
	}
	defer pod.Close()
	return f(pod)
}

// linkWith finds the link that has an address.
func linkWith(network *netlink.Handle, address netip.Addr) (netlink.Link, error) {
	addresses, err := network.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if has, _ := netip.AddrFromSlice(a.IP); has.Unmap() == address {
			return network.LinkByIndex(a.LinkIndex)
		}
	}
	return nil, fmt.Errorf("no link has the address %s", address)
}

// strict is whether a link drops what its own answer would not go back by.
func strict(link string) bool {
	highest := "0"
	for _, name := range []string{"all", link} {
		raw, err := os.ReadFile(filterFile(name))
		if value := strings.TrimSpace(string(raw)); err == nil && value > highest {
			highest = value
		}
	}
	return highest == "1"
}

func filterFile(link string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", link, "rp_filter")
}
