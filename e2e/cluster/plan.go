package cluster

import (
	"fmt"
	"net"
	"net/netip"
)

// The addresses of every cluster. They can be the same in all, as each cluster's
// network is a world of its own.
var (
	gateway      = netip.MustParsePrefix("10.89.0.1/24") // the control plane, also the nodes' router
	serviceRange = netip.MustParsePrefix("10.96.0.0/16")
	kubernetesAt = netip.MustParseAddr("10.96.0.1") // the Service "kubernetes"
	dnsAt        = netip.MustParseAddr("10.96.0.10")
)

const (
	controlPlane = "control-plane"
	// The nodes' addresses are the gateway's network and this number plus theirs.
	firstNodeAddress = 10
)

// nodeName is the name of the node with the number, from 1 on.
func nodeName(number int) string { return fmt.Sprintf("n%d", number) }

// nodeAddress is a node's address in the shared network.
func nodeAddress(number int) netip.Prefix {
	a := gateway.Addr().As4()
	a[3] = byte(firstNodeAddress + number)
	return netip.PrefixFrom(netip.AddrFrom4(a), gateway.Bits())
}

// podRange holds the addresses of a node's pods.
func podRange(number int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(number), 0}), 24)
}

func ip(a netip.Addr) net.IP { return net.IP(a.AsSlice()) }
