package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The names in nftables.
const (
	table       = "strake" // of the family ip
	postrouting = "postrouting"
	forward     = "forward"
)

// nftKind is the type of messages of nftables (linux/netfilter/nfnetlink.h).
func nftKind(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// nftBody is a struct nfgenmsg.
func nftBody(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// batch applies all messages, or none.
func (s *socket) batch(messages ...*message) error {
	frame := func(kind uint16) *message {
		return newMessage(kind, 0, nftBody(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES))
	}
	all := append([]*message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, messages...)
	return s.do(nil, append(all, frame(unix.NFNL_MSG_BATCH_END))...)
}

func nftMessage(kind, flags uint16) *message {
	return newMessage(nftKind(kind), flags|unix.NLM_F_ACK, nftBody(unix.NFPROTO_IPV4, 0))
}

// masquerade makes the table, or replaces it at once:
//
//	table ip strake {
//		chain postrouting {
//			type nat hook postrouting priority srcnat
//			ip saddr SUBNET oifname != BRIDGE masquerade
//		}
//		chain forward {
//			type filter hook forward priority filter
//			oifname BRIDGE ct state & (established|related) == 0 drop
//			iifname NAME oifname != BRIDGE drop        # for each of opened
//		}
//	}
//
// So nobody outside gets to a box that it has not called, and interfaces that forward only for boxes (opened) forward
// nothing else. subnet has 24 bits.
func (s *socket) masquerade(subnet netip.Prefix, opened []string) error {
	messages := []*message{
		nftMessage(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE).text(unix.NFTA_TABLE_NAME, table),
		nftMessage(unix.NFT_MSG_DELTABLE, 0).text(unix.NFTA_TABLE_NAME, table),
		nftMessage(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE).text(unix.NFTA_TABLE_NAME, table),
		nftChain(postrouting, "nat", unix.NF_INET_POST_ROUTING, 100),
		nftChain(forward, "filter", unix.NF_INET_FORWARD, 0),
	}
	net := subnet.Masked().Addr().As4()
	r := newRule(postrouting)
	r.payload(12, 3).compare(unix.NFT_CMP_EQ, net[:3]) // the source's address
	r.meta(unix.NFT_META_OIFNAME).compare(unix.NFT_CMP_NEQ, ifName(bridge))
	r.expr("masq").end().end()
	messages = append(messages, r.end())
	r = newRule(forward)
	r.meta(unix.NFT_META_OIFNAME).compare(unix.NFT_CMP_EQ, ifName(bridge)).state(0x2 | 0x4)
	messages = append(messages, r.drop().end())
	for _, name := range opened {
		r = newRule(forward)
		r.meta(unix.NFT_META_IIFNAME).compare(unix.NFT_CMP_EQ, ifName(name))
		r.meta(unix.NFT_META_OIFNAME).compare(unix.NFT_CMP_NEQ, ifName(bridge))
		messages = append(messages, r.drop().end())
	}
	err := s.batch(messages...)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return fmt.Errorf("setting up the masquerade: %w: the kernel needs nf_tables, nft_masq, nft_ct and nft_chain_nat (modprobe), or use --network host", err)
	}
	if err != nil {
		return fmt.Errorf("setting up the masquerade: %w", err)
	}
	return nil
}

// removeTable removes the table, if it is there.
func (s *socket) removeTable() error {
	err := s.batch(nftMessage(unix.NFT_MSG_DELTABLE, 0).text(unix.NFTA_TABLE_NAME, table))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing the masquerade: %w", err)
	}
	return nil
}

func nftChain(name, kind string, hook, priority uint32) *message {
	m := nftMessage(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE).text(unix.NFTA_CHAIN_TABLE, table).text(unix.NFTA_CHAIN_NAME, name)
	m.nest(unix.NFTA_CHAIN_HOOK).big(unix.NFTA_HOOK_HOOKNUM, hook).big(unix.NFTA_HOOK_PRIORITY, priority).end()
	return m.text(unix.NFTA_CHAIN_TYPE, kind)
}

// ifName is a name as nftables compares it.
func ifName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// rule is a rule in the making, which end ends. Its expressions work on register 1.
type rule struct{ *message }

func newRule(chain string) *rule {
	m := nftMessage(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	m.text(unix.NFTA_RULE_TABLE, table).text(unix.NFTA_RULE_CHAIN, chain)
	return &rule{m.nest(unix.NFTA_RULE_EXPRESSIONS)}
}

// expr begins an expression; two ends end it.
func (r *rule) expr(name string) *message {
	return r.nest(unix.NFTA_LIST_ELEM).text(unix.NFTA_EXPR_NAME, name).nest(unix.NFTA_EXPR_DATA)
}

// payload loads bytes of the IP header.
func (r *rule) payload(offset, length uint32) *rule {
	m := r.expr("payload").big(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1).big(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	m.big(unix.NFTA_PAYLOAD_OFFSET, offset).big(unix.NFTA_PAYLOAD_LEN, length).end().end()
	return r
}

func (r *rule) meta(key uint32) *rule {
	r.expr("meta").big(unix.NFTA_META_KEY, key).big(unix.NFTA_META_DREG, unix.NFT_REG_1).end().end()
	return r
}

func (r *rule) compare(op uint32, value []byte) *rule {
	m := r.expr("cmp").big(unix.NFTA_CMP_SREG, unix.NFT_REG_1).big(unix.NFTA_CMP_OP, op)
	m.nest(unix.NFTA_CMP_DATA).attr(unix.NFTA_DATA_VALUE, value).end().end().end()
	return r
}

// state goes on if the connection is in none of the states.
func (r *rule) state(states uint32) *rule {
	r.expr("ct").big(unix.NFTA_CT_KEY, unix.NFT_CT_STATE).big(unix.NFTA_CT_DREG, unix.NFT_REG_1).end().end()
	m := r.expr("bitwise").big(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1).big(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1).big(unix.NFTA_BITWISE_LEN, 4)
	m.nest(unix.NFTA_BITWISE_MASK).attr(unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, states)).end()
	m.nest(unix.NFTA_BITWISE_XOR).attr(unix.NFTA_DATA_VALUE, make([]byte, 4)).end().end().end()
	return r.compare(unix.NFT_CMP_EQ, make([]byte, 4))
}

func (r *rule) drop() *rule {
	const verdict, drop = 0, 0 // the register NFT_REG_VERDICT, NF_DROP
	m := r.expr("immediate").big(unix.NFTA_IMMEDIATE_DREG, verdict)
	m.nest(unix.NFTA_IMMEDIATE_DATA).nest(unix.NFTA_DATA_VERDICT).big(unix.NFTA_VERDICT_CODE, drop).end().end().end().end()
	return r
}
