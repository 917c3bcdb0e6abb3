package keep

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Forward has the node send what is for an address on to another node, in the same
// network. Without a node it is dropped. It may be called again.
func Forward(address, node netip.Addr) error {
	route := &netlink.Route{Dst: single(address), Protocol: protocol}
	if node.IsValid() {
		uplink, err := Neighbour(node)
		if err != nil {
			return err
		}
		route.LinkIndex, route.Gw = uplink, node.AsSlice()
	} else {
		route.Type = unix.RTN_BLACKHOLE
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("send on what is for %s: %w", address, err)
	}
	return nil
}

// Unforward ends Forward. It may be called again.
func Unforward(address netip.Addr) error {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	for i := range routes {
		if routes[i].Dst != nil && routes[i].Dst.String() == single(address).String() {
			err = errors.Join(err, netlink.RouteDel(&routes[i]))
		}
	}
	if err != nil {
		return fmt.Errorf("do not send on what is for %s any more: %w", address, err)
	}
	return nil
}

// Neighbour returns the index of the link at which another node can be reached without a
// router in between: a router would send what is for the address back.
func Neighbour(node netip.Addr) (link int, err error) {
	routes, err := netlink.RouteGet(node.AsSlice())
	if err != nil || len(routes) == 0 {
		return 0, fmt.Errorf("find the way to node address %s: %w", node, err)
	}
	if routes[0].Gw != nil {
		return 0, fmt.Errorf("node address %s is behind a router, which would send what is for the pod's old address back", node)
	}
	return routes[0].LinkIndex, nil
}

// Cable returns the link that leads to a pod's address alone, as the CNI plugin ptp makes it.
func Cable(address netip.Addr) (netlink.Link, error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Dst: single(address)}, netlink.RT_FILTER_DST)
	if err != nil {
		return nil, fmt.Errorf("find the route to pod address %s: %w", address, err)
	}
	if len(routes) == 0 || routes[0].Gw != nil || routes[0].LinkIndex == 0 {
		return nil, fmt.Errorf("the node has no cable to pod address %s alone, as the CNI plugin ptp makes it", address)
	}
	return netlink.LinkByIndex(routes[0].LinkIndex)
}

func single(address netip.Addr) *net.IPNet {
	return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(address.BitLen(), address.BitLen())}
}
