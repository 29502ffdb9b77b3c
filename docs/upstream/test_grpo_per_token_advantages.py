# Copyright 2020-2026 The HuggingFace Team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from unittest.mock import patch

import pytest
import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from .testing_utils import TrlTestCase


class PerTokenGRPOTrainer(GRPOTrainer):
    """Adds a bonus to the advantage of every other token."""

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        positions = torch.arange(output["completion_ids"].shape[1], device=output["advantages"].device)
        output["advantages"] = output["advantages"].unsqueeze(1) + positions % 2
        return output


class TestGRPOPerTokenAdvantages(TrlTestCase):
    def build(self, trainer_class=GRPOTrainer, **kwargs):
        training_args = GRPOConfig(
            output_dir=self.tmp_dir,
            learning_rate=0.1,  # use higher lr because gradients are tiny and default lr can stall updates
            per_device_train_batch_size=3,
            num_generations=3,
            max_completion_length=8,
            epsilon_high=2.0,  # what cispo clamps the ratio to, which is 1 here
            report_to="none",
            **kwargs,
        )
        return trainer_class(
            model="trl-internal-testing/tiny-Qwen2ForCausalLM-2.5",
            reward_funcs=lambda completions, **kwargs: [float(len(set(completion))) for completion in completions],
            args=training_args,
            train_dataset=load_dataset("trl-internal-testing/zen", "standard_prompt_only", split="train"),
        )

    def loss_and_gradient(self, trainer, advantages, mask):
        """The loss of an on-policy batch, and its gradient with respect to the log-probability of each token."""
        trainer.current_gradient_accumulation_steps = 1
        logps = torch.full(mask.shape, -1.0, device=mask.device, requires_grad=True)
        ids = torch.ones_like(mask)
        inputs = {
            "prompt_ids": ids,
            "prompt_mask": ids,
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": advantages,
            "num_items_in_batch": mask.sum(),
        }
        outputs = (logps, torch.zeros_like(logps), None)
        with patch.object(trainer, "_get_per_token_logps_and_entropies", return_value=outputs):
            loss = trainer._compute_loss(trainer.model, inputs)
        return loss.detach(), torch.autograd.grad(loss, logps)[0]

    @pytest.mark.parametrize("loss_type", ["bnpo", "cispo", "dapo", "dr_grpo", "grpo"])
    def test_each_token_is_weighed_by_its_own_advantage(self, loss_type):
        trainer = self.build(loss_type=loss_type)
        device = trainer.accelerator.device
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], device=device)
        advantages = torch.tensor(
            [[0.5, -1.0, 0.0, 2.0], [1.0, -0.5, 3.0, 3.0], [-2.0, 0.25, 1.5, 3.0]], device=device
        )
        _, gradient = self.loss_and_gradient(trainer, advantages, mask)

        normalizer = {
            "bnpo": mask.sum(),
            "cispo": mask.sum(),
            "dapo": mask.sum(),
            "dr_grpo": torch.tensor(3 * 8),
            "grpo": 3 * mask.sum(1, keepdim=True),
        }[loss_type]
        torch.testing.assert_close(gradient, -advantages * mask / normalizer.to(device))

    @pytest.mark.parametrize("loss_type", ["bnpo", "cispo", "dapo", "dr_grpo", "grpo"])
    def test_constant_advantages_equal_those_of_sequences(self, loss_type):
        trainer = self.build(loss_type=loss_type)
        device = trainer.accelerator.device
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], device=device)
        advantages = torch.tensor([0.5, -1.0, 2.0], device=device)
        per_sequence = self.loss_and_gradient(trainer, advantages, mask)
        per_token = self.loss_and_gradient(trainer, advantages.unsqueeze(1).repeat(1, 4), mask)
        torch.testing.assert_close(per_token, per_sequence, rtol=0, atol=0)

    def test_train_with_advantages_per_token(self):
        trainer = self.build(PerTokenGRPOTrainer)
        previous_trainable_params = {n: param.clone() for n, param in trainer.model.named_parameters()}

        trainer.train()

        assert trainer.state.log_history[-1]["train_loss"] is not None

        # Check that the params have changed
        for n, param in previous_trainable_params.items():
            new_param = trainer.model.get_parameter(n)
            assert not torch.equal(param, new_param), f"Parameter {n} has not changed."
