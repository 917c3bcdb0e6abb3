package keep

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestReservation: a reserved address keeps its file from host-local, which removes those
// with exactly a sandbox's name, and is the sandbox's again when it is given back.
func TestReservation(t *testing.T) {
	root := t.TempDir()
	folder := filepath.Join(root, hostLocal, "pods")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	const sandbox, given = "0123abcd", "0123abcd\r\neth0"
	address := netip.MustParseAddr("10.244.1.5")
	file := filepath.Join(folder, address.String())
	for name, content := range map[string]string{file: given, filepath.Join(folder, "10.244.1.6"): "other\r\neth0", filepath.Join(folder, "last_reserved_ip.0"): "10.244.1.6"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	content := func() string {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if _, err := Given(root, address, "other"); err == nil {
		t.Error("another sandbox has the address")
	}
	r, err := Given(root, address, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Reserve("shop/move/uid"); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.TrimSpace(content()); got == given || got == sandbox {
		t.Errorf("host-local would make the address free: %q", got)
	}
	all, err := Reservations(root)
	if err != nil || len(all) != 1 || all[0].Owner != "shop/move/uid" || all[0].Address != address || all[0].Sandbox != sandbox {
		t.Fatalf("the reservations are %+v, %v", all, err)
	}
	if err := all[0].GiveBack(); err != nil || content() != given {
		t.Errorf("given back: %v, %q", err, content())
	}
	if all, err := Reservations(root); err != nil || len(all) != 0 {
		t.Errorf("after it was given back: %+v, %v", all, err)
	}
	for range 2 {
		if err := r.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGuest: what is for a former address reaches the pod by way of its old node, once the
// guest is open, and goes back the same way; afterwards nothing of it is left. Two nodes
// are two network namespaces.
func TestGuest(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	source, target, pod, client := network(t), network(t), network(t), network(t)
	connectLinks(t, source, target, "up", "10.89.0.11/24", "10.89.0.12/24")
	cable(t, target, pod, "10.244.2.1", "10.244.2.9")
	cable(t, source, client, "10.244.1.1", "10.244.1.7")
	path := fmt.Sprintf("/proc/self/fd/%d", int(pod))
	guest := Guest{
		Address: netip.MustParseAddr("10.244.1.5"), PodIP: netip.MustParseAddr("10.244.2.9"),
		NetNS: path, Source: netip.MustParseAddr("10.89.0.11"),
	}
	enter(t, source)
	if err := Forward(guest.Address, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if err := Forward(guest.Address, netip.MustParseAddr("10.89.0.12")); err != nil {
		t.Fatal(err)
	}
	enter(t, target)
	before := state(t)
	for range 2 { // as after a checkpointer that ended in between
		if err := guest.Admit(); err != nil {
			t.Fatal(err)
		}
	}
	enter(t, pod)
	listener, err := net.Listen("tcp4", "10.244.1.5:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }() // until the other end closes
		}
	}()
	enter(t, client)
	if conn, err := net.DialTimeout("tcp4", "10.244.1.5:7000", 300*time.Millisecond); err == nil {
		conn.Close()
		t.Error("the pod is reached before the guest is open")
	}
	enter(t, target)
	for range 2 {
		if err := guest.Open(); err != nil {
			t.Fatal(err)
		}
	}
	enter(t, client)
	conn, err := net.DialTimeout("tcp4", "10.244.1.5:7000", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	enter(t, target)
	if count, err := guest.Connections(); err != nil || count != 1 {
		t.Errorf("%d connections, %v; want 1", count, err)
	}
	for range 2 {
		if err := guest.Dismiss(); err != nil {
			t.Fatal(err)
		}
	}
	if after := state(t); after != before {
		t.Errorf("left behind:\n%s\nwant\n%s", after, before)
	}
	enter(t, source)
	for range 2 {
		if err := Unforward(guest.Address); err != nil {
			t.Fatal(err)
		}
	}
	if routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: single(guest.Address)}, netlink.RT_FILTER_DST); err != nil || len(routes) > 0 {
		t.Errorf("left behind: %v, %v", routes, err)
	}
}

// TestSilence: no packet passes in a network that is silent, and all do afterwards.
func TestSilence(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces")
	}
	runtime.LockOSThread()
	pod := network(t)
	path := fmt.Sprintf("/proc/self/fd/%d", int(pod))
	enter(t, pod)
	up(t, "lo")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	reached := func() bool {
		conn, err := net.DialTimeout("tcp4", listener.Addr().String(), 300*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	for range 2 {
		if err := Silence(path); err != nil {
			t.Fatal(err)
		}
	}
	if reached() {
		t.Error("a silent network passes packets")
	}
	for range 2 {
		if err := Unsilence(path); err != nil {
			t.Fatal(err)
		}
	}
	if !reached() {
		t.Error("the network is silent still")
	}
	if err := Unsilence("/proc/self/status"); err != nil {
		t.Errorf("of a pod that has ended: %v", err)
	}
}

// network makes a network namespace and returns to the thread's own.
func network(t *testing.T) netns.NsHandle {
	t.Helper()
	own, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	made, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { made.Close() })
	up(t, "lo")
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	enter(t, own)
	own.Close()
	return made
}

func enter(t *testing.T, ns netns.NsHandle) {
	t.Helper()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// connectLinks makes a cable between two namespaces, with an address at each end.
func connectLinks(t *testing.T, a, b netns.NsHandle, name, addressA, addressB string) {
	t.Helper()
	enter(t, a)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(b)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		ns            netns.NsHandle
		link, address string
	}{{a, name, addressA}, {b, "eth0", addressB}} {
		enter(t, end.ns)
		address, err := netlink.ParseAddr(end.address)
		if err == nil {
			err = netlink.AddrAdd(up(t, end.link), address)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// cable connects a pod to its node as the CNI plugin ptp does.
func cable(t *testing.T, node, pod netns.NsHandle, gateway, address string) {
	t.Helper()
	connectLinks(t, node, pod, "veth0", gateway+"/32", address+"/32")
	enter(t, node)
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: up(t, "veth0").Attrs().Index, Dst: single(netip.MustParseAddr(address)), Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	enter(t, pod)
	index := up(t, "eth0").Attrs().Index
	for _, route := range []*netlink.Route{
		{LinkIndex: index, Dst: single(netip.MustParseAddr(gateway)), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Gw: net.ParseIP(gateway)},
	} {
		if err := netlink.RouteReplace(route); err != nil {
			t.Fatal(err)
		}
	}
}

// state is all that a guest may change of a node's network.
func state(t *testing.T) string {
	t.Helper()
	rules, err := netlink.RuleList(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%v\n%v", rules, routes)
}
