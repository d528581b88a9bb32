//go:build wasip1

package main

import (
	"github.com/assay-attest/assay/enclave/sdk"
	"github.com/assay-attest/assay/enclave/sdk/boundary"
	"github.com/assay-attest/assay/enclave/sigma"
	"github.com/assay-attest/assay/examples/vault"
)

// What a key exchange leaves between two calls.
var (
	exchange *sigma.Enclave // after hello
	channel  *sigma.Session // after prove
)

// doHello begins. Whoever calls it again begins anew: the exchange before is lost.
func doHello(sdk.None) (vault.Paper, error) {
	forget()
	x, err := sdk.KeyExchange(vault.Provision, complete)
	if err != nil {
		return vault.Paper{}, err
	}
	exchange = x
	return vault.Paper{Bytes: x.Hello()}, nil
}

// complete asks the application for what the platform has beside the monitor's quote. Whatever it says, the server checks.
func complete(quote []byte) ([]byte, error) {
	p, err := sdk.Call[vault.Paper, vault.Paper](vault.Complete, vault.Paper{Bytes: quote})
	return p.Bytes, err
}

// doProve authenticates the server before anything else; only for the right one is there a quote.
func doProve(in vault.Paper) (out vault.Paper, err error) {
	if exchange == nil {
		return out, vault.CodeNoChannel.Missing("exchange", "", "")
	}
	x := exchange
	exchange = nil
	out.Bytes, channel, err = x.Finish(in.Bytes)
	return out, err
}

// doReceive fills the vault with what comes through the channel, and says so through the channel. One filling ends it.
func doReceive(in vault.Paper) (out vault.Paper, err error) {
	if channel == nil {
		return out, vault.CodeNoChannel.Missing("channel", "", "")
	}
	plain, err := channel.Open([]byte(vault.Receive), in.Bytes)
	if err != nil {
		return out, err
	}
	defer clear(plain)
	var c vault.Contents
	if err := boundary.Decode(plain, &c); err != nil {
		return out, err
	}
	if _, err := doFill(c); err != nil {
		return out, err
	}
	reply, err := boundary.Encode(vault.Left{Times: left})
	if err != nil {
		return out, err
	}
	out.Bytes, err = channel.Seal([]byte(vault.Receive), reply)
	forget()
	return out, err
}

func forget() {
	if channel != nil {
		channel.Wipe()
	}
	exchange, channel = nil, nil
}
