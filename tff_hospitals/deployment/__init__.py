"""Real hospitals: the plan that was compared in simulation, run where the records are.

Only signed messages with payloads of the byte formats travel: no code, no pickle, no record. The server drives the one
training loop and sees what a plan lets it see; each hospital runs a worker of its own that decides what leaves it.

    keys, certificates, agreement    who takes part, and what all of them approved
    envelope, body                   signed messages, and what is in them
    transport, engines, loopback     how messages travel, whatever carries them
    grpc_engine                      over gRPC
    flower_engine, flower_*          over Flower, whose programs run in an environment of their own
    federation, runtime, status      the server's side
    approval, site, site_*, worker   a hospital's side
    founding, launch, isolated       a federation for trying out, on one machine
"""
