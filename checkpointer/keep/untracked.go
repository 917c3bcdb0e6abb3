package keep

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The places of the addresses in an IPv4 header, in bytes.
const (
	sourceAt, destinationAt = 12, 16
	addressLength           = 4
)

// leaveUntracked has the node's connection tracking leave alone what passes between the
// source and the pod. A connection that began elsewhere would be a new one to it, and be
// translated anew.
func (g Guest) leaveUntracked(uplink, cable int) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open the packet filter: %w", err)
	}
	table := conn.AddTable(g.filterTable())
	chain := conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(g.passing(uplink, destinationAt), &expr.Notrack{})})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(g.passing(cable, sourceAt),
		// The node's own connections end here, and so do their translations.
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Notrack{},
	)})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("leave connections at %s untracked: %w", g.Address, err)
	}
	return nil
}

// passing matches what comes in by a link, with the address at a place of the header.
func (g Guest) passing(link int, place uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(link))},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: place, Len: addressLength},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: g.Address.AsSlice()},
	}
}

// trackAgain ends leaveUntracked.
func (g Guest) trackAgain() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open the packet filter: %w", err)
	}
	conn.DelTable(g.filterTable())
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func (g Guest) filterTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "lifeboat-" + strings.ReplaceAll(g.Address.String(), ".", "-")}
}

func is(n *net.IPNet, address netip.Addr) bool {
	return n != nil && n.String() == single(address).String()
}
