// Parts of a batch as tasks of Nextflow. UNTESTED: written from Nextflow's documentation.
//   nextflow run carl.nf --table pairs.csv --results results --parts 4
// A task that is tried again skips what it had finished.

params.parts = 4

// Absolute: each task runs in a folder of its own.
table = file(params.table).toAbsolutePath()
results = file(params.results).toAbsolutePath()

process PART {
    cpus 4
    memory '16 GB'
    errorStrategy 'retry'
    maxRetries 2

    input:
    val number

    output:
    val number

    script:
    """
    carl batch '${table}' --out-dir '${results}' --resume --threads ${task.cpus} \
      --shard ${number}/${params.parts}
    """
}

process SUMMARY {
    input:
    val numbers

    script:
    """
    carl batch '${table}' --out-dir '${results}' --summary
    """
}

workflow {
    SUMMARY(PART(Channel.of(1..params.parts)).collect())
}
